#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| echoloop_fuzz::any_split_gives_the_same(
    "length:u32",
    data
));
