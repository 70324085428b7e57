//! The commands that end by themselves, run as a user runs them: what they print and what they exit with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failed test panics")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const MESH: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: github, namespace: tools}
spec:
  clusterIP: 10.96.0.7
  ports:
  - {name: http, port: 80, appProtocol: http}
  - {name: tcp-db, port: 5432, appProtocol: tcp}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: tools}
spec:
  targetRefs: [{group: "", kind: Service, name: github}]
  action: ALLOW
  rules:
  - from: [{source: {serviceAccounts: [agents/bot]}}]
    to: [{operation: {paths: ["/mcp"]}}]
    when:
    - {key: "experimental.envoy.filters.http.mcp[tool]", values: ["search_*", "get_issue"]}
    - {key: "experimental.envoy.filters.http.mcp[args.owner]", values: ["acme"]}
  - from: [{source: {serviceAccounts: [agents/admin]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-drop, namespace: tools}
spec:
  targetRefs: [{group: "", kind: Service, name: github}]
  action: DENY
  rules:
  - when:
    - {key: "experimental.envoy.filters.http.mcp[tool]", values: ["drop"]}
"#;

fn folder(manifests: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mesh.yaml"), manifests).unwrap();
    folder
}

fn portcullis(command: &str, manifests: &Path, flags: &[&str]) -> Output {
    let mut run = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    run.arg(command).arg("--manifests").arg(manifests).args(flags).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const BOT: &str = "spiffe://cluster.local/ns/agents/sa/bot";
const ADMIN: &str = "spiffe://cluster.local/ns/agents/sa/admin";

fn check(flags: &[&str]) -> (i32, Value) {
    let folder = folder(MESH);
    let flags: Vec<&str> = flags.iter().copied().chain(["--output", "json"]).collect();
    let run = portcullis("check", folder.path(), &flags);
    let json = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)));
    (run.status.code().unwrap(), json)
}

#[test]
fn check_answers_by_tool_argument_and_path_and_names_what_decided() {
    let to = ["--to", "github.tools:80", "--tool"];
    let rows: &[(&str, &[&str], i32, &str)] = &[
        (BOT, &["search_code", "--args", r#"{"owner":"acme"}"#], 0, "ns[tools]-policy[readers]-rule[0]"),
        (BOT, &["search_code", "--args", r#"{"owner":"evil"}"#], 1, ""),
        (BOT, &["search_code"], 1, ""),
        (BOT, &["search_code", "--args", r#"{"owner":"acme"}"#, "--path", "/other"], 1, ""),
        (
            BOT,
            &["search_code", "--args", r#"{"owner":"acme"}"#, "--path", "/x/../mcp"],
            0,
            "ns[tools]-policy[readers]-rule[0]",
        ),
        (BOT, &["delete_repo", "--args", r#"{"owner":"acme"}"#], 1, ""),
        (ADMIN, &["delete_repo"], 0, "ns[tools]-policy[readers]-rule[1]"),
        (ADMIN, &["drop"], 1, "ns[tools]-policy[no-drop]-rule[0]"),
        ("spiffe://cluster.local/ns/agents/sa/nobody", &["x"], 1, ""),
    ];
    for (from, flags, code, rule) in rows {
        let asked: Vec<&str> = ["--from", *from].into_iter().chain(to).chain(flags.iter().copied()).collect();
        let (got, report) = check(&asked);
        assert_eq!(
            (got, report["policy_rule"].as_str().unwrap_or_default()),
            (*code, *rule),
            "{asked:?} {report}"
        );
        assert_eq!(report["decision"], if *code == 0 { "allow" } else { "deny" });
        if !rule.is_empty() {
            assert!(report["file"].as_str().unwrap().ends_with("mesh.yaml"), "{report}");
        }
    }
}

#[test]
fn check_judges_plain_http_opaque_ports_and_other_messages() {
    let rows: &[(&str, &[&str], i32, &str)] = &[
        (BOT, &["--to", "github:80", "--path", "/mcp"], 1, "mcp_head"),
        (ADMIN, &["--to", "github:80", "--method", "GET", "--path", "/healthz"], 0, "mcp_head"),
        (BOT, &["--to", "github:5432"], 1, "stream"),
        (ADMIN, &["--to", "github:5432"], 1, "stream"),
        (BOT, &["--to", "github:80", "--mcp-method", "tools/list"], 0, "mcp_body"),
        (BOT, &["--to", "github:80", "--mcp-method", "initialize"], 0, "mcp_body"),
        (BOT, &["--to", "github:80", "--mcp-method", "nonsense/x"], 1, "mcp_body"),
        (
            BOT,
            &["--to", "github:80", "--tool", "get_issue", "--args", r#"{"owner":"acme","owner":"evil"}"#],
            1,
            "mcp_body",
        ),
        (BOT, &["--to", "github:80", "--resource", "file:///a/../b"], 1, "mcp_body"),
    ];
    for (from, flags, code, judged) in rows {
        let asked: Vec<&str> = ["--from", *from].into_iter().chain(flags.iter().copied()).collect();
        let (got, report) = check(&asked);
        assert_eq!((got, report["judged_by"].as_str().unwrap()), (*code, *judged), "{asked:?} {report}");
    }
}

#[test]
fn check_for_people_says_who_what_why_and_where_and_warns_of_traps() {
    let folder = folder(MESH);
    let flags = ["--from", ADMIN, "--to", "github:80", "--tool", "drop"];
    let run = portcullis("check", folder.path(), &flags);
    let said = text(&run.stdout);
    assert_eq!(run.status.code(), Some(1), "{said}");
    for part in [
        "DENY  spiffe://cluster.local/ns/agents/sa/admin → github.tools.svc.cluster.local:80  tools/call drop\n",
        "policy   DENY tools/no-drop rule 0\n",
        "mesh.yaml, document 3\n",
        "trap deny-on-mcp  tools/no-drop rule 0: ",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn bad_input_is_2_and_says_what_to_write() {
    let folder = folder(MESH);
    let rows: &[(&[&str], &str)] = &[
        (&["--from", "nobody", "--to", "github:80"], "for example spiffe://"),
        (&["--from", "https://x", "--to", "github:80"], "for example spiffe://"),
        (&["--from", BOT, "--to", "gihub:80"], "did you mean github.tools?"),
        (&["--from", BOT, "--to", "github"], "name a port"),
        (&["--from", BOT, "--to", "github:80", "--tool", "x", "--args", "[1]"], "a JSON object"),
        (&["--from", BOT, "--to", "github:80", "--args", "{}"], "arguments of what"),
        (&["--from", BOT, "--to", "github:80", "--mcp-method", "tools/call"], "needs --tool"),
        (&["--from", BOT, "--to", "github:80", "--tool", "x", "--method", "GET"], "always a POST"),
        (&["--from", BOT, "--to", "github:80", "--path", "mcp"], "starts with /"),
        (&["--from", BOT, "--to", "github:80", "--header", "x"], "name: value"),
        (&["--from", BOT], "--to"),
    ];
    for (flags, says) in rows {
        let run = portcullis("check", folder.path(), flags);
        let said = text(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{flags:?} {said}");
        assert!(said.contains(says), "{flags:?}: {says} in {said}");
        assert!(run.stdout.is_empty(), "{flags:?}");
    }
    let run = portcullis("check", Path::new("/nonexistent"), &["--from", BOT, "--to", "github"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(text(&run.stderr).contains("cannot list /nonexistent"), "{}", text(&run.stderr));
}

#[test]
fn a_policy_that_cannot_be_read_denies_and_is_named() {
    let folder = folder(&MESH.replace("http.mcp[args.owner]", "http.mcp[agrs.owner]"));
    let flags = ["--from", ADMIN, "--to", "github:80", "--tool", "x"];
    let run = portcullis("check", folder.path(), &flags);
    let said = text(&run.stdout);
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.contains("tools/readers applies here and cannot be enforced"), "{said}");
    assert!(said.contains("error  ") && said.contains("spec.rules[0].when[1].key"), "{said}");
}

#[test]
fn matrix_shows_who_may_call_what() {
    let folder = folder(MESH);
    let other = "spiffe://cluster.local/ns/x/sa/y";
    let flags = ["--to", "github:80", "--tool", "search_code", "--from", other];
    let run = portcullis("matrix", folder.path(), &flags);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let said = text(&run.stdout);
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["drop", "get_issue", "search_code", "(any", "other)"], "{said}");
    assert_eq!(rows[2], [ADMIN, "no", "yes", "yes", "yes"], "{said}");
    assert_eq!(rows[3], [BOT, "no", "args", "args", "no"], "{said}");
    assert_eq!(rows[4], [other, "no", "no", "no", "no"], "{said}");
    let flags: Vec<&str> = flags.iter().copied().chain(["--output", "json"]).collect();
    let json: Value = serde_json::from_slice(&portcullis("matrix", folder.path(), &flags).stdout).unwrap();
    assert_eq!(json["rows"][1]["identity"], BOT);
    assert_eq!(json["rows"][1]["cells"][1], "depends_on_args");
    assert_eq!(json["patterns"], serde_json::json!(["search_*"]));
}

#[test]
fn what_matrix_calls_yes_or_no_check_answers_so() {
    let folder = folder(MESH);
    let run = portcullis("matrix", folder.path(), &["--to", "github:80", "--output", "json"]);
    let table: Value = serde_json::from_slice(&run.stdout).unwrap();
    for row in table["rows"].as_array().unwrap() {
        for (tool, cell) in table["tools"].as_array().unwrap().iter().zip(row["cells"].as_array().unwrap()) {
            let (from, tool) = (row["identity"].as_str().unwrap(), tool.as_str().unwrap());
            for arguments in ["{}", r#"{"owner":"acme"}"#] {
                let (code, report) =
                    check(&["--from", from, "--to", "github:80", "--tool", tool, "--args", arguments]);
                match cell.as_str().unwrap() {
                    "allow" => assert_eq!(code, 0, "{report}"),
                    "deny" => assert_eq!(code, 1, "{report}"),
                    other => assert_eq!(other, "depends_on_args"),
                }
            }
        }
    }
}

#[test]
fn schema_prints_what_is_committed() {
    let run = Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("schema").output().unwrap();
    assert!(run.status.success());
    assert!(text(&run.stdout) == include_str!("../../../docs/schema/settings.json"));
}
