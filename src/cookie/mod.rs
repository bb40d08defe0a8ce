//! SYN cookies (to be written).
