#![no_main]

use sync_config::testing::hostile::holds;

libfuzzer_sys::fuzz_target!(|data: &[u8]| holds("server_news", data));
