//! Changes of headers. Values stay in Envoy's format, with its `%OPERATORS%`.

use istio_protos::envoy::config::core::v3::HeaderValueOption;
use istio_protos::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use waypoint_model::HeaderChange;

use super::translated::{At, Refused};

/// Changes of request and response, in the order in which they are carried out.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) request: Vec<HeaderChange>,
    pub(super) response: Vec<HeaderChange>,
}

/// What one level of a route configuration says: headers to add and to remove, of requests and of responses.
pub(super) fn changes(
    (request_add, request_remove): (&[HeaderValueOption], &[String]),
    (response_add, response_remove): (&[HeaderValueOption], &[String]),
) -> Result<Changes, Refused> {
    Ok(Changes {
        request: one_side(request_add, request_remove).at("request_headers_to_add")?,
        response: one_side(response_add, response_remove).at("response_headers_to_add")?,
    })
}

/// Of one level Envoy first removes, then sets, then adds, in whatever order it is written.
fn one_side(add: &[HeaderValueOption], remove: &[String]) -> Result<Vec<HeaderChange>, Refused> {
    let removed = remove.iter().map(|name| Ok(HeaderChange::Remove(name.to_ascii_lowercase())));
    let mut all: Vec<HeaderChange> = removed.chain(add.iter().map(added)).collect::<Result<_, _>>()?;
    all.sort_by_key(|change| match change {
        HeaderChange::Remove(_) => 0,
        HeaderChange::Set(..) => 1,
        HeaderChange::Add(..) => 2,
    });
    Ok(all)
}

pub(super) fn added(option: &HeaderValueOption) -> Result<HeaderChange, Refused> {
    let header = option.header.as_ref().ok_or_else(|| Refused::new("a header without name and value"))?;
    let (name, value) = (header.key.to_ascii_lowercase(), header.value.clone());
    match option.append {
        Some(true) => return Ok(HeaderChange::Add(name, value)), // The older form, which has precedence.
        Some(false) => return Ok(HeaderChange::Set(name, value)),
        None => {}
    }
    match HeaderAppendAction::try_from(option.append_action) {
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) => Ok(HeaderChange::Add(name, value)),
        Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => Ok(HeaderChange::Set(name, value)),
        Ok(HeaderAppendAction::AddIfAbsent | HeaderAppendAction::OverwriteIfExists) | Err(_) => {
            Err(Refused::new(format!("append action {} of {name} is not supported", option.append_action)))
        }
    }
}

#[cfg(test)]
mod tests {
    use istio_protos::envoy::config::core::v3::HeaderValue;

    use super::*;

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let option = |name: &str, value: &str, action: HeaderAppendAction| HeaderValueOption {
            header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned() }),
            append_action: action.into(),
            ..HeaderValueOption::default()
        };
        let (add, set) =
            (HeaderAppendAction::AppendIfExistsOrAdd, HeaderAppendAction::OverwriteIfExistsOrAdd);
        let written = [option("A", "1", add), option("A", "2", set), option("b", "3", set)];
        let changes = one_side(&written, &["C".to_owned()]).unwrap();
        let expected = [
            HeaderChange::Remove("c".into()),
            HeaderChange::Set("a".into(), "2".into()),
            HeaderChange::Set("b".into(), "3".into()),
            HeaderChange::Add("a".into(), "1".into()),
        ];
        assert_eq!(changes, expected);
    }
}
