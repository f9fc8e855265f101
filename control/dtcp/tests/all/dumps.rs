//! Dumps of the original's password store.

use proptest::prelude::*;
use sixferry_dtcp::import::{Dump, Error, Format, What, parse_dump};

fn stored(secret: &[u8], nuls: usize) -> Vec<u8> {
    let mut value: Vec<u8> = secret.iter().map(|byte| byte ^ 0xFF).collect();
    value.extend(std::iter::repeat_n(0, nuls));
    value
}

fn key(user: &str) -> Vec<u8> {
    [user.as_bytes(), b"\0"].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn escaped(bytes: &[u8]) -> String {
    let show = |byte: &u8| match byte {
        b'\\' => "\\\\".to_owned(),
        0x20..0x7f => char::from(*byte).to_string(),
        byte => format!("\\{byte:02x}"),
    };
    bytes.iter().map(show).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for triple in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=triple.len()].copy_from_slice(triple);
        let bits = u32::from_be_bytes(bits);
        for digit in 0..4 {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= triple.len() {
                char::from(DIGITS[index as usize])
            } else {
                '='
            });
        }
    }
    text
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn db_dump(pairs: &Pairs, print: bool) -> String {
    let format = if print { "print" } else { "bytevalue" };
    let show = if print { escaped } else { hex };
    let mut text =
        format!("VERSION=3\nformat={format}\ntype=hash\nh_nelem=2\ndb_pagesize=4096\nHEADER=END\n");
    for (key, value) in pairs {
        text += &format!(" {}\n {}\n", show(key), show(value));
    }
    text + "DATA=END\n"
}

fn db_dump185(pairs: &Pairs, print: bool) -> String {
    let format = if print { "print" } else { "bytevalue" };
    let show = if print { escaped } else { hex };
    let mut text = format!("format={format}\ntype=hash\nh_ffactor=8\ndb_lorder=1234\nHEADER=END\n");
    for (key, value) in pairs {
        text += &format!("{}\n{}\n", show(key), show(value));
    }
    text
}

fn gdbm_dump(pairs: &Pairs) -> String {
    let mut text = String::from(
        "# GDBM dump file created by GDBM version 1.23. 04/02/2022 on Sat Nov 21 10:00:00 2026\n\
         #:version=1.1\n#:file=pop.auth\n#:uid=110,user=pop,gid=110,group=pop,mode=600\n\
         #:format=standard\n# End of header\n",
    );
    for (key, value) in pairs {
        for item in [key, value] {
            text += &format!("#:len={}\n", item.len());
            for line in base64(item).as_bytes().chunks(76) {
                text += std::str::from_utf8(line).unwrap();
                text.push('\n');
            }
        }
    }
    text + &format!("#:count={}\n# End of data\n", pairs.len())
}

fn all_formats(pairs: &Pairs) -> Vec<(Format, String)> {
    vec![
        (Format::Berkeley, db_dump(pairs, false)),
        (Format::Berkeley, db_dump(pairs, true)),
        (Format::Berkeley, db_dump185(pairs, false)),
        (Format::Berkeley, db_dump185(pairs, true)),
        (Format::Gdbm, gdbm_dump(pairs)),
    ]
}

fn users(dump: &Dump) -> Vec<(&str, &[u8])> {
    dump.records
        .iter()
        .map(|r| (r.user.as_str(), r.secret.expose()))
        .collect()
}

#[test]
fn dtcp_39_one_and_two_nul_records_in_every_format() {
    let pairs = vec![
        (key("alice"), stored(b"s3cret", 1)),
        (key("bob"), stored(b"hunter2", 2)),
        (key("carol"), stored(b"back\\slash and space", 1)),
    ];
    for (format, text) in all_formats(&pairs) {
        let dump = parse_dump(text.as_bytes()).unwrap();
        assert_eq!(dump.format, format);
        assert_eq!(
            users(&dump),
            [
                ("alice", &b"s3cret"[..]),
                ("bob", b"hunter2"),
                ("carol", b"back\\slash and space"),
            ],
            "{text}"
        );
        assert_eq!(dump.problems, [], "{text}");
        let crlf = text.replace('\n', "\r\n");
        assert_eq!(users(&parse_dump(crlf.as_bytes()).unwrap()), users(&dump));
    }
}

/// Databases that Berkeley DB 5.3 and GDBM 1.23 made (`db_load -T -t hash|btree`, `gdbm_load`), dumped by
/// their own tools: as `db_dump`, `db_dump -p` and `gdbm_dump` write them, and a file with two
/// databases. Records end in one NUL or two, as both generations of the original wrote them.
#[test]
fn dtcp_39_dumps_of_real_databases() {
    const USERS: [(&str, &[u8]); 7] = [
        ("alice", b"s3cret"),
        ("bob", b"hunter2"),
        ("carol", b"back\\slash and space"),
        ("dave.smith@example.net", b"p%ss:w0rd;\"'"),
        ("erin", b"\xe4\xf6\xfc-latin1"),
        ("frank", &[b'x'; 60]),
        ("grace", b"p\xc3\xa4ssw\xc3\xb6rd"),
    ];
    let read = |name: &str| {
        let path = format!("{}/tests/popauth/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    };
    for (name, format) in [
        ("db_dump.hash", Format::Berkeley),
        ("db_dump.btree", Format::Berkeley),
        ("db_dump_p.hash", Format::Berkeley),
        ("db_dump_p.btree", Format::Berkeley),
        ("db_dump.two", Format::Berkeley),
        ("gdbm_dump", Format::Gdbm),
    ] {
        let dump = parse_dump(&read(name)).unwrap();
        assert_eq!(dump.format, format, "{name}");
        // A hash has an order of its own.
        let mut found = users(&dump);
        found.sort_unstable();
        assert_eq!(found, USERS, "{name}");
        let mut odd: Vec<_> = dump
            .problems
            .iter()
            .map(|problem| (problem.user.as_deref(), problem.what))
            .collect();
        odd.sort_unstable_by_key(|(user, _)| user.map(str::to_owned));
        let umlauts = ["erin", "grace"].map(|user| (Some(user), What::Unprintable));
        assert_eq!(odd, umlauts, "{name}");
    }
    let error = parse_dump(&read("gdbm_dump.binary")).unwrap_err();
    assert_eq!(error, Error::BinaryDump);
    let two = read("db_dump.two");
    let garbage = [&two[..], b"\nalice:s3cret\n"].concat();
    assert!(matches!(parse_dump(&garbage), Err(Error::Header { .. })));
    let cut = &two[..two.len() - 20];
    assert!(matches!(parse_dump(cut), Err(Error::Truncated(_))));
}

#[test]
fn dtcp_39_text_lines() {
    let dump = parse_dump(b"# old users\nalice:s3cret\r\n\nbob:with:colons: \nnocolon\n:x\neve:\n")
        .unwrap();
    assert_eq!(
        users(&dump),
        [("alice", &b"s3cret"[..]), ("bob", b"with:colons: ")]
    );
    let problems: Vec<_> = dump.problems.iter().map(|p| (p.line, p.what)).collect();
    assert_eq!(
        problems,
        [(5, What::NoColon), (6, What::UserName), (7, What::NoSecret)]
    );
}

#[test]
fn dtcp_39_suspicious_records_are_named_without_their_secret() {
    let pairs = vec![
        (key("good"), stored(b"fine", 1)),
        (key("nonul"), stored(b"nonul-secret", 0)),
        (
            key("scram"),
            [stored(b"apop-secret", 1), b"scram data".to_vec()].concat(),
        ),
        (key("plain"), b"never-xored\0".to_vec()),
        (key("empty"), vec![0]),
        (key("with space"), stored(b"spaced-secret", 1)),
        (key("good"), stored(b"second-secret", 1)),
        (key("long"), stored(&[b'x'; 300], 1)),
    ];
    for (_, text) in all_formats(&pairs) {
        let dump = parse_dump(text.as_bytes()).unwrap();
        let names: Vec<_> = dump.records.iter().map(|r| r.user.as_str()).collect();
        assert_eq!(names, ["good", "nonul", "scram", "plain"]);
        assert_eq!(dump.records[2].secret.expose(), b"apop-secret");
        let found: Vec<_> = dump.problems.iter().map(|p| p.what).collect();
        assert_eq!(
            found,
            [
                What::NoNul,
                What::Trailing,
                What::Unprintable,
                What::NoSecret,
                What::UserName,
                What::SeenBefore,
                What::LongSecret,
            ]
        );
        let shown: String = dump.problems.iter().map(|p| format!("{p}\n")).collect();
        let all = format!("{shown}{dump:?}");
        assert!(!all.contains("secret\""), "{all}");
        for secret in [
            "nonul-secret",
            "apop-secret",
            "never-xored",
            "spaced-secret",
        ] {
            assert!(!all.contains(secret), "{all}");
        }
    }
}

#[test]
fn dtcp_39_cut_off_and_wrong_files_are_refused() {
    let pairs = vec![
        (key("alice"), stored(b"s3cret", 1)),
        (key("bob"), stored(b"hunter2", 1)),
    ];
    let text = db_dump(&pairs, false);
    for (bytes, expected) in [
        (text.replace("DATA=END\n", "").into_bytes(), "no DATA=END"),
        (
            text.replace("HEADER=END\n", "").into_bytes(),
            "not a line of a header",
        ),
        (
            text.replace("bytevalue", "xml").into_bytes(),
            "unknown format",
        ),
        (
            gdbm_dump(&pairs)
                .replace("# End of data\n", "")
                .into_bytes(),
            "End of data",
        ),
        (
            gdbm_dump(&pairs).replace("count=2", "count=3").into_bytes(),
            "fewer or more",
        ),
        (
            b"\0\x06\x15\x61\0\0\0\x02".to_vec(),
            "a database, not its dump",
        ),
        (
            b"!\r\n! GDBM FLAT FILE DUMP".to_vec(),
            "without --format=binary",
        ),
    ] {
        let error = parse_dump(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let odd = db_dump185(&pairs, false);
    let odd = &odd[..odd.trim_end().rfind('\n').unwrap()];
    assert!(matches!(
        parse_dump(odd.as_bytes()),
        Err(Error::Truncated(_))
    ));
}

proptest! {
    #[test]
    fn dtcp_39_what_was_stored_is_found(
        secrets in proptest::collection::vec(
            (proptest::collection::vec(1..255_u8, 1..40), 1..3_usize), 0..8),
    ) {
        let pairs: Pairs = secrets
            .iter()
            .enumerate()
            .map(|(n, (secret, nuls))| (key(&format!("user{n}")), stored(secret, *nuls)))
            .collect();
        for (_, text) in all_formats(&pairs) {
            let dump = parse_dump(text.as_bytes()).unwrap();
            let found: Vec<_> = dump.records.iter().map(|r| r.secret.expose().to_vec()).collect();
            let expected: Vec<_> = secrets.iter().map(|(secret, _)| secret.clone()).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn dtcp_39_no_dump_makes_it_panic(
        header in 0..4_usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        lines in "([ 0-9a-f\\\\=#:lencountA-Z+/]{0,12}\n){0,12}",
    ) {
        let header = [
            "",
            "VERSION=3\nformat=print\nHEADER=END\n",
            "format=bytevalue\nHEADER=END\n",
            "# GDBM dump file created by\n# End of header\n",
        ][header];
        let _ = parse_dump(&[header.as_bytes(), &bytes].concat());
        let _ = parse_dump(&[header.as_bytes(), lines.as_bytes(), b"DATA=END\n# End of data\n"].concat());
    }
}
