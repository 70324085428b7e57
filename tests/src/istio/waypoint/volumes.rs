//! Volumes of a pod as folders, written as a kubelet writes them: each update in a folder of its own, behind one link that
//! is swapped, so that a reader sees all of it or nothing.

use super::container::field;
use crate::istio::api::Api;
use crate::istio::objects::{at, list, text};
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Makes or refreshes the volumes of `pod` below `folder`, for a container of this user.
pub(super) async fn write(api: &Api, pod: &Value, folder: &Path, user: u32) -> Result<()> {
    for volume in list(pod, "/spec/volumes") {
        let name = text(volume, "/name")?;
        let to = folder.join(name);
        fs::create_dir_all(&to)?;
        fs::set_permissions(&to, Permissions::from_mode(0o777))?;
        let Some(files) = files(api, pod, volume).await.with_context(|| format!("volume {name}"))? else {
            continue;
        };
        swap_in(&to, &files, user)?;
    }
    Ok(())
}

/// Makes a volume hold this one file.
pub(super) fn overwrite(volume: &Path, name: &str, bytes: &[u8], user: u32) -> Result<()> {
    let file = File { bytes: bytes.to_vec(), mode: 0o644 };
    swap_in(volume, &BTreeMap::from([(name.to_owned(), file)]), user)
}

/// One file of a volume.
struct File {
    bytes: Vec<u8>,
    /// Secret files are the container's alone.
    mode: u32,
}

/// The files of a volume by name; none for a folder that is the container's own.
async fn files(api: &Api, pod: &Value, volume: &Value) -> Result<Option<BTreeMap<String, File>>> {
    // A YAML `emptyDir:` without a value reads as null.
    if volume.get("emptyDir").is_some() {
        return Ok(None);
    }
    if let Some(projected) = volume.get("projected") {
        let mut files = BTreeMap::new();
        for source in list(projected, "/sources") {
            files.extend(source_files(api, pod, source).await?);
        }
        return Ok(Some(files));
    }
    source_files(api, pod, volume).await.map(Some)
}

async fn source_files(api: &Api, pod: &Value, source: &Value) -> Result<BTreeMap<String, File>> {
    let namespace = text(pod, "/metadata/namespace")?;
    if let Some(token) = source.get("serviceAccountToken") {
        let bound = (text(pod, "/metadata/name")?, text(pod, "/metadata/uid")?);
        let account = text(pod, "/spec/serviceAccountName")?;
        let token_text = api.token(namespace, account, at(token, "/audience").as_str(), Some(bound)).await?;
        let file = File { bytes: token_text.into_bytes(), mode: 0o600 };
        return Ok([(text(token, "/path")?.to_owned(), file)].into());
    }
    if let Some(downward) = source.get("downwardAPI") {
        let file = |item: &Value| {
            let bytes = field(pod, text(item, "/fieldRef/fieldPath")?)?.into_bytes();
            Ok((text(item, "/path")?.to_owned(), File { bytes, mode: 0o644 }))
        };
        return list(downward, "/items").iter().map(file).collect();
    }
    if let Some(map) = source.get("configMap") {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{}", text(map, "/name")?);
        let data = api.until(&path, "a ConfigMap is there", |found| found.get("data").cloned()).await?;
        return picked(map, &data, |value| Ok(File { bytes: value.as_bytes().to_vec(), mode: 0o644 }));
    }
    if let Some(secret) = source.get("secret") {
        let name = at(secret, "/secretName").as_str().map_or_else(|| text(secret, "/name"), Ok)?;
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let data = api.until(&path, "a Secret is there", |found| found.get("data").cloned()).await?;
        let decode = base64::engine::general_purpose::STANDARD;
        return picked(secret, &data, |value| Ok(File { bytes: decode.decode(value)?, mode: 0o600 }));
    }
    bail!("source {source}")
}

/// The keys of a ConfigMap or Secret that `source` asks for, under the names that it gives them; all without a list.
fn picked(
    source: &Value,
    data: &Value,
    file: impl Fn(&str) -> Result<File>,
) -> Result<BTreeMap<String, File>> {
    let read = |key: &str| {
        let value = data.get(key).and_then(Value::as_str).with_context(|| format!("no key {key}"))?;
        file(value)
    };
    let items = list(source, "/items");
    if items.is_empty() {
        let keys = data.as_object().into_iter().flat_map(|data| data.keys());
        return keys.map(|key| Ok((key.clone(), read(key)?))).collect();
    }
    let item = |item: &Value| Ok((text(item, "/path")?.to_owned(), read(text(item, "/key")?)?));
    items.iter().map(item).collect()
}

/// `..data` leads to the folder of this update, and every file's name through it.
fn swap_in(volume: &Path, files: &BTreeMap<String, File>, user: u32) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let fresh = format!("..{now}");
    fs::create_dir(volume.join(&fresh))?;
    for (name, file) in files {
        let path = volume.join(&fresh).join(name);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(&path, &file.bytes)?;
        chown(&path, Some(user), None)?;
        fs::set_permissions(&path, Permissions::from_mode(file.mode))?;
    }
    let link = volume.join("..data");
    let before = fs::read_link(&link).ok();
    let next = volume.join("..data_tmp");
    symlink(&fresh, &next)?;
    fs::rename(&next, &link)?;
    for first in files.keys().filter_map(|name| name.split('/').next()) {
        let shown = volume.join(first);
        if fs::symlink_metadata(&shown).is_err() {
            symlink(PathBuf::from("..data").join(first), &shown)?;
        }
    }
    if let Some(before) = before {
        fs::remove_dir_all(volume.join(before))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_one_swap_of_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let user = std::os::unix::fs::MetadataExt::uid(&fs::metadata(folder.path()).unwrap());
        let files = |text: &str| {
            BTreeMap::from([("token".to_owned(), File { bytes: text.as_bytes().to_vec(), mode: 0o600 })])
        };
        swap_in(folder.path(), &files("one"), user).unwrap();
        let first = fs::read_link(folder.path().join("..data")).unwrap();
        swap_in(folder.path(), &files("two"), user).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("token")).unwrap(), "two");
        assert!(!folder.path().join(first).exists(), "the old update is gone");
        assert_eq!(fs::read_link(folder.path().join("token")).unwrap(), Path::new("..data/token"));
    }
}
