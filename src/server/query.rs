//! The query of a request, decoded strictly: a prefix that is not what the client meant would show it other keys.

use axum::http::Uri;

use super::problem::Problem;

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
            if slot.replace(decoded(wanted, value)?).is_some() {
                let problem = format!("{wanted} stands more than once in the query");
                return Err(Problem::bad_request(problem));
            }
        }
    }
    Ok(values)
}

/// All values of one name in a URL's query, which may stand there several times.
pub(super) fn every(uri: &Uri, name: &str) -> Result<Vec<String>, Problem> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let found = pairs.filter_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (found == name).then(|| decoded(name, value))
    });
    found.collect()
}

fn decoded(name: &str, value: &str) -> Result<String, Problem> {
    percent_decoded(&value.replace('+', " ")).ok_or_else(|| {
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
}
