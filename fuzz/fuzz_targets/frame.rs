#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| synwall_fuzz::frame::run(octets));
