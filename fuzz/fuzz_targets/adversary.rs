#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| synwall_fuzz::adversary::run(octets));
