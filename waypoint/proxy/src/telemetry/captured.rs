//! Headers of both heads that a port's settings name, kept until the record is told.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Most bytes of one header that are kept.
const LONGEST: usize = 8 << 10;

/// Which of the two heads a header is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// What was kept; nothing is allocated where nothing is named.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    request: Vec<(HeaderName, HeaderValue)>,
    response: Vec<(HeaderName, HeaderValue)>,
}

impl Captured {
    pub(super) fn keep(&mut self, side: Side, names: &[HeaderName], headers: &HeaderMap) {
        let into = match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        };
        into.extend(names.iter().filter_map(|name| Some((name.clone(), joined(headers, name)?))));
    }

    pub(super) fn find(&self, side: Side, name: &HeaderName) -> Option<&HeaderValue> {
        let kept = match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        };
        kept.iter().find(|(kept, _)| kept == name).map(|(_, value)| value)
    }
}

/// Several values of a header are one list (RFC 9110 §5.3); what is longer than anybody reads is not kept.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().filter(|value| value.len() <= LONGEST)?;
    let mut all: Option<Vec<u8>> = None;
    for value in values {
        let all = all.get_or_insert_with(|| first.as_bytes().to_vec());
        if all.len() + value.len() >= LONGEST {
            break;
        }
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    match all {
        None => Some(first.clone()),
        Some(all) => HeaderValue::from_bytes(&all).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_values_of_a_header_are_one_list_and_a_huge_one_is_not_kept() {
        let name = HeaderName::from_static("x-a");
        let (mut headers, mut kept) = (HeaderMap::new(), Captured::default());
        headers.append(&name, HeaderValue::from_static("1"));
        headers.append(&name, HeaderValue::from_static("2"));
        headers.insert("x-big", HeaderValue::try_from("x".repeat(LONGEST + 1)).unwrap());
        let names = [name.clone(), HeaderName::from_static("x-big"), HeaderName::from_static("x-none")];
        kept.keep(Side::Request, &names, &headers);
        assert_eq!(kept.find(Side::Request, &name).unwrap(), "1,2");
        assert_eq!((kept.request.len(), kept.response.len()), (1, 0));
        assert!(kept.find(Side::Response, &name).is_none());
    }
}
