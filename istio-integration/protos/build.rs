//! Compiles `proto/` without protoc: messages for prost, descriptors for JSON, and the table of what is done with each field.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

#[path = "build/table.rs"]
mod table;

const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = Vec::new();
    collect(Path::new(ROOT), &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let mut set = compiler.file_descriptor_set();

    fs::write(out.join("table.rs"), table::render(&set)?)?;
    prost_build::Config::new()
        .out_dir(&out)
        .bytes(["."])
        .btree_map(["."])
        .enable_type_names()
        .extern_path(".google.protobuf.Any", "crate::Any")
        .include_file("messages.rs")
        .compile_fds(set.clone())?;
    // JSON needs no comments, and they are the larger part.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
