#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| echoloop_fuzz::a_kind_prints_as_it_parses(text));
