//! Prints a dump as JSON, and what of it is not understood: `show envoy.config.listener.v3.Listener FILE`.

use std::process::ExitCode;
use std::{env, fs};

use istio_protos::{Nested, TYPE_PREFIX, inspect, table, to_json};

fn main() -> ExitCode {
    let (Some(name), Some(file)) = (env::args().nth(1), env::args().nth(2)) else {
        eprintln!("usage: show FULL-NAME FILE");
        return ExitCode::FAILURE;
    };
    let (Some(message), Ok(bytes)) = (table::message(&name), fs::read(&file)) else {
        eprintln!("{name} is not a type of proto/, or {file} cannot be read");
        return ExitCode::FAILURE;
    };
    println!("{:#}", to_json(&format!("{TYPE_PREFIX}{name}"), &bytes));
    match inspect(message, &bytes, Nested::Enter) {
        Ok(findings) => findings.iter().for_each(|finding| eprintln!("{finding}")),
        Err(malformed) => eprintln!("{malformed}"),
    }
    ExitCode::SUCCESS
}
