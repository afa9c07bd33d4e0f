//! The query of a request, decoded strictly: a prefix that is not what the client meant would show it other keys.

use axum::http::Uri;

use super::problem::Problem;
use super::scope::Scope;

/// The values of `names` in a URL's query; other parameters are ignored.
pub(super) fn values<const N: usize>(
    uri: &Uri,
    names: [&str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for pair in uri.query().unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        for (slot, wanted) in values.iter_mut().zip(names) {
            if name != wanted {
                continue;
            }
            let value = decoded(wanted, value)?;
            if slot.replace(value).is_some() {
                let problem = format!("{wanted} stands more than once in the query");
                return Err(Problem::bad_request(problem));
            }
        }
    }
    Ok(values)
}

/// Prefixes in one query at most: each is looked up by itself.
const MAX_PREFIXES: usize = 64;

/// The scope of the `prefix`es in a URL's query: every key where there are none.
pub(super) fn scope(uri: &Uri) -> Result<Scope, Problem> {
    let mut prefixes = Vec::new();
    for pair in uri.query().unwrap_or_default().split('&') {
        if let Some(text) = pair.strip_prefix("prefix=") {
            prefixes.push(decoded("prefix", text)?);
        }
    }
    if prefixes.len() > MAX_PREFIXES {
        let problem = format!("prefix stands more than {MAX_PREFIXES} times in the query");
        return Err(Problem::bad_request(problem));
    }
    if prefixes.is_empty() {
        return Ok(Scope::all());
    }
    Ok(Scope::of(prefixes))
}

/// A number in a URL's query, within its bounds.
pub(super) fn number(
    name: &str,
    text: &str,
    bounds: std::ops::RangeInclusive<u32>,
) -> Result<u32, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text
        .parse()
        .ok()
        .filter(|number| digits && bounds.contains(number));
    number.ok_or_else(|| {
        let (least, most) = bounds.into_inner();
        let problem = format!("{name} in the query is a number from {least} to {most}");
        Problem::bad_request(problem)
    })
}

/// `true` or `false` in a URL's query.
pub(super) fn truth(name: &str, text: &str) -> Result<bool, Problem> {
    text.parse()
        .map_err(|_| Problem::bad_request(format!("{name} in the query is true or false")))
}

fn decoded(name: &str, text: &str) -> Result<String, Problem> {
    percent_decoded(&text.replace('+', " ")).ok_or_else(|| {
        let problem = "the percent-encoding is broken, or it is not UTF-8";
        Problem::bad_request(format!("{name} in the query: {problem}"))
    })
}

/// Decodes `%41` to `A`, once; `None` when that is broken or not UTF-8.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(uri: &'static str) -> Result<Option<String>, Problem> {
        values(&Uri::from_static(uri), ["prefix"]).map(|[prefix]| prefix)
    }

    #[test]
    fn a_query_is_decoded_once_and_strictly() {
        assert_eq!(prefix("/").unwrap(), None);
        assert_eq!(prefix("/?other=1&x").unwrap(), None);
        assert_eq!(prefix("/?prefix=").unwrap().as_deref(), Some(""));
        let decoded = prefix("/?a=b&prefix=x%2F+%2B%25=").unwrap();
        assert_eq!(decoded.as_deref(), Some("x/ +%="));
        for wrong in ["/?prefix=%ff", "/?prefix=%", "/?prefix=1&prefix=2"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn several_prefixes_make_one_scope_and_none_makes_all() {
        let scope = |uri: &'static str| scope(&Uri::from_static(uri));
        assert!(scope("/?limit=1").unwrap().is_all());
        assert!(scope("/?prefix=&prefix=a").unwrap().is_all());
        let two = scope("/?prefix=a%2F&limit=1&prefix=b").unwrap();
        assert!(two.contains("a/x") && two.contains("bc") && !two.contains("a"));
        assert!(scope("/?prefix=%ff").is_err());
        let many = format!("/?{}", "prefix=x&".repeat(MAX_PREFIXES + 1));
        assert!(super::scope(&many.parse().unwrap()).is_err());
    }

    #[test]
    fn a_number_is_digits_within_its_bounds() {
        assert_eq!(number("limit", "7", 1..=9).unwrap(), 7);
        for wrong in ["", "0", "10", "+7", "-1", "7.0", "99999999999"] {
            assert!(number("limit", wrong, 1..=9).is_err(), "{wrong}");
        }
    }
}
