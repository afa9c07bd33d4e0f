//! The state file: bytes that lay on a disk.

use super::Target;
use crate::runtime::saved::tested::{rewritten, rewritten_mark, sealed};

pub(super) const STATE_FILE: Target = Target {
    name: "state_file",
    holds,
    words: &[
        "{\"format\":\"sync-config state\",\"version\":1,\"store\":\"s\",\"generation\":7,\"epoch\":\"0123abcd456789ef0123456789abcdef\",\"revision\":12,\"id\":\"0123abcd456789ef0123456789abcdef\",\"checksum\":\"00000000\",\"entries\":0,\"writtenAt\":\"2026-01-01T00:00:00Z\",\"provenAt\":\"2026-01-01T00:00:00Z\"}\n",
        "{\"format\":\"sync-config mark\",\"version\":1,\"store\":\"s\",\"generation\":7,\"epoch\":\"0123abcd456789ef0123456789abcdef\",\"revision\":18446744073709551615,\"id\":\"0123abcd456789ef0123456789abcdef\",\"provenAt\":\"2026-01-01T00:00:00Z\"}\n",
        "[\"a\",\"1\",11,1760000000000000]\n",
        "[\"b\",\"2\",12,-9223372036854775808]\n",
        "\n",
        "18446744073709551615",
        "9999-12-31T23:59:59Z",
        "{\"crc32\":\"00000000\"}\n",
        "\u{0}",
        "{",
        "[",
    ],
};

/// Bytes are refused, or are a state that is written and read again as the same. So are lines that are sealed as they
/// have to be: a seal is no secret.
fn holds(data: &[u8]) {
    let sealed = sealed(&String::from_utf8_lossy(data));
    for bytes in [data, sealed.as_slice()] {
        for same in [rewritten(bytes), rewritten_mark(bytes)] {
            assert_ne!(same, Some(false), "what was read is not what is written");
        }
    }
}
