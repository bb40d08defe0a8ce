//! What is remembered about connections, within caps and without knowing a rule of TCP (to be written).
