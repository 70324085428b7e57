//! What the documentation shows is what the binary says: every example is run through `portcullis check`.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::ca::Ca;
use portcullis_tests::portcullis::{Portcullis, Run, binary};

/// One fenced block, with where it stands.
struct Block {
    language: String,
    text: String,
    line: usize,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (at, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => {
                found.push(Block { language: language.to_owned(), text: String::new(), line: at + 1 });
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => {
                let block = found.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, false) => {}
        }
    }
    found
}

/// Words as a shell splits them: blanks part, single quotes hold together.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let mut words: Vec<String> = Vec::new();
    for (at, part) in parts {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

fn check(manifests: &Path, arguments: &[String]) -> (Option<i32>, String) {
    let run = Command::new(binary().unwrap())
        .arg("check")
        .arg("--manifests")
        .arg(manifests)
        .args(arguments)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    (run.status.code(), said)
}

fn copy_without(from: &Path, left_out: &str, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".yaml") && name != left_out {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[test]
fn every_example_of_the_policy_page_is_answered_as_written() {
    let page = fs::read_to_string(root().join("docs/policy.md")).unwrap();
    let mut policy = String::new();
    let mut asked = 0;
    for block in blocks(&page) {
        match block.language.as_str() {
            "yaml" => policy = block.text,
            "ask" => {
                let folder = tempfile::tempdir().unwrap();
                copy_without(&root().join("examples/basic"), "policy.yaml", folder.path());
                fs::write(folder.path().join("policy.yaml"), &policy).unwrap();
                for (at, line) in block.text.lines().enumerate() {
                    asked += 1;
                    ask(folder.path(), line, block.line + at + 1);
                }
            }
            _other => {}
        }
    }
    assert!(asked >= 20, "the page holds only {asked} questions");
}

fn ask(folder: &Path, line: &str, at: usize) {
    let mut words = words(line).into_iter();
    let want = match words.next().as_deref() {
        Some("allow") => 0,
        Some("deny") => 1,
        other => panic!("docs/policy.md:{at}: {other:?} is neither allow nor deny"),
    };
    let who = words.next().unwrap();
    let (namespace, account) = who.split_once('/').unwrap();
    let mut arguments =
        vec!["--from".to_owned(), format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")];
    arguments.extend(["--to".to_owned(), "github-mcp.tools:80".to_owned()]);
    arguments.extend(words);
    let (code, said) = check(folder, &arguments);
    assert_eq!(code, Some(want), "docs/policy.md:{at}: {line}\n{said}");
}

#[test]
fn every_check_of_a_readme_ends_as_its_comment_says() {
    let mut run = 0;
    for example in fs::read_dir(root().join("examples")).unwrap().map(Result::unwrap) {
        let readme = example.path().join("README.md");
        let text = fs::read_to_string(&readme).unwrap();
        for block in blocks(&text).into_iter().filter(|block| block.language == "console") {
            let joined = block.text.replace("\\\n", " ");
            for line in joined.lines().filter_map(|line| line.strip_prefix("$ portcullis check ")) {
                let (command, comment) = line.split_once('#').unwrap_or((line, ""));
                let want = match comment.trim() {
                    comment if comment.starts_with("allowed") => 0,
                    comment if comment.starts_with("denied") => 1,
                    other => panic!("{}: says neither allowed nor denied: {other}", readme.display()),
                };
                let arguments = words(command);
                let at = arguments.iter().position(|word| word == "--manifests").unwrap();
                let rest: Vec<String> = arguments[..at].iter().chain(&arguments[at + 2..]).cloned().collect();
                let (code, said) = check(&root().join(&arguments[at + 1]), &rest);
                assert_eq!(code, Some(want), "{}: {command}\n{said}", readme.display());
                run += 1;
            }
        }
    }
    assert!(run >= 6, "the examples hold only {run} checks");
}

#[test]
fn the_operations_page_names_every_setting_with_its_default() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let run = Command::new(binary().unwrap()).arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let settings = schema["properties"].as_object().unwrap();
    assert!(settings.len() > 30, "{settings:?}");
    for (name, property) in settings {
        let (name, default) = (format!("`{name}`"), property["default"].to_string());
        let row = page.lines().find(|line| line.split('|').nth(1).is_some_and(|cell| cell.contains(&name)));
        let row = row.unwrap_or_else(|| panic!("docs/operations.md does not name {name}"));
        let has_default = row.split(['|', '·']).any(|cell| cell.trim() == default);
        assert!(has_default, "docs/operations.md gives {name} another default than {default}: {row}");
    }
}

#[tokio::test]
async fn the_operations_page_names_every_metric() -> anyhow::Result<()> {
    let ca = Ca::new("cluster.local")?;
    let svid = ca.svid(&ca.id("tools", "waypoint"))?;
    let folder = tempfile::tempdir()?;
    let run = Run::new(&root().join("examples/basic"), &svid.write_to(folder.path(), ca.bundle_pem())?);
    let portcullis = Portcullis::start(&run).await?;
    let (status, text) = portcullis.ask("metrics", http::Method::GET, "/stats/prometheus").await?;
    assert_eq!(status, 200);
    let page = fs::read_to_string(root().join("docs/operations.md"))?;
    let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(types.len() > 8, "{text}");
    for line in types {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = if kind == "counter" { "_total" } else { "" };
        assert!(
            page.contains(&format!("`{name}{suffix}`")),
            "docs/operations.md does not name {name}{suffix}"
        );
    }
    Ok(())
}

/// Pages for people: those of the root, and all of these folders.
fn pages() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ["docs", "deploy", "examples"].map(|name| root().join(name)).into();
    let entries = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries(&root()).filter(|path| path.is_file()).collect();
    while let Some(folder) = folders.pop() {
        let (inner, here): (Vec<_>, Vec<_>) = entries(&folder).partition(|path| path.is_dir());
        folders.extend(inner);
        files.extend(here);
    }
    files.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    files
}

/// Where the links of a page lead, those to other places left out.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.contains(' ')).collect()
}

/// What a heading is called in links.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn has_anchor(page: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(page).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).any(|found| found == wanted)
}

#[test]
fn every_link_leads_to_a_file_and_its_heading() {
    let mut followed = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            assert!(
                heading.is_empty() || has_anchor(&target, heading),
                "{}: no heading {link}",
                page.display()
            );
            followed += 1;
        }
    }
    assert!(followed >= 40, "the pages hold only {followed} links");
}

#[test]
fn every_manifest_that_a_page_applies_is_there() {
    let mut applied = 0;
    for page in pages() {
        for block in blocks(&fs::read_to_string(&page).unwrap()) {
            let files = block
                .text
                .split_whitespace()
                .filter(|word| ["deploy/", "examples/"].iter().any(|folder| word.starts_with(folder)));
            for file in files {
                assert!(root().join(file).exists(), "{}:{}: {file}", page.display(), block.line);
                applied += 1;
            }
        }
    }
    assert!(applied >= 10, "the pages apply only {applied} manifests");
}

#[test]
fn the_list_of_what_is_in_deploy_is_whole() {
    let page = fs::read_to_string(root().join("deploy/README.md")).unwrap();
    for folder in ["istio", "helm", "image"] {
        for entry in fs::read_dir(root().join("deploy").join(folder)).unwrap().map(Result::unwrap) {
            let name = format!("({folder}/{})", entry.file_name().to_string_lossy());
            assert!(page.contains(&name), "deploy/README.md does not name {name}");
        }
    }
}

#[test]
fn every_test_that_the_istio_page_names_is_there() {
    let page = fs::read_to_string(root().join("docs/istio.md")).unwrap();
    let mut named = 0;
    for name in page.split('`').filter_map(|word| word.strip_prefix("istio::")) {
        let (module, test) = name.split_once("::").unwrap_or((name, ""));
        let file = root().join("tests/tests/istio").join(format!("{module}.rs"));
        let text = fs::read_to_string(&file).unwrap_or_else(|_| panic!("docs/istio.md names istio::{name}"));
        assert!(text.contains(&format!("async fn {test}")), "docs/istio.md names istio::{name}");
        named += 1;
    }
    assert!(named >= 2, "the page names only {named} tests");
}
