//! The ServiceAccount token, read anew for each call: the kubelet replaces it long before it ends.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};

use super::CaError;

/// `Bearer …`, marked so that it is not shown.
pub(super) async fn bearer(path: &Path) -> Result<MetadataValue<Ascii>, CaError> {
    let read = tokio::fs::read_to_string(path).await;
    let text = read.map_err(|cause| CaError::Unreadable {
        what: "the token",
        path: path.to_owned(),
        cause,
        fix: FIX,
    })?;
    let unusable = |why| CaError::Token { path: path.to_owned(), why };
    let text = text.trim();
    if text.is_empty() {
        return Err(unusable("is empty"));
    }
    let mut value = MetadataValue::try_from(format!("Bearer {text}"))
        .map_err(|_| unusable("has characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(super) const FIX: &str =
    "mount a projected serviceAccountToken with audience istio-ca there, or name its file in AUTH_TOKEN";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_call_reads_the_token_of_the_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for token in ["one", "two"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            let value = bearer(&path).await.unwrap();
            assert_eq!(value.to_str().unwrap(), format!("Bearer {token}"));
            assert!(value.is_sensitive());
        }
    }

    #[tokio::test]
    async fn what_is_no_token_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let said = async || bearer(&path).await.unwrap_err().to_string();
        assert!(said().await.contains("cannot be read"), "{}", said().await);
        for (content, why) in [(" \n", "is empty"), ("half\na secret", "has characters")] {
            std::fs::write(&path, content).unwrap();
            let said = said().await;
            assert!(said.contains(why) && said.contains("fix: ") && !said.contains("secret"), "{said}");
        }
    }
}
