//! Random requests that meet the routes of [`super::rules`].

use anyhow::Result;
use http::Request;
use portcullis_tests::http::{Body, empty};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A request to one of the Services.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(super) port: u16,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) query: &'static str,
    pub(super) host: &'static str,
    pub(super) headers: Vec<(&'static str, &'static str)>,
}

/// Any of them.
pub(crate) fn request() -> BoxedStrategy<Asked> {
    let paths = [
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a/b/",
        "/A",
        "/ab",
        "/b",
        "/api",
        "/api/v1/x",
        "/API/v2/x",
        "/api/vv/x",
        "/a/1/2",
        "/a//b",
        "/%61",
        "/a%20b",
        "/a%2Fb",
        "/x/../a",
    ];
    let queries =
        ["", "", "", "?", "?q=1", "?q=ab&p=1", "?q", "?q=", "?p=1&q=1&q=2", "?q=%31", "?q=v+w", "?Q=1"];
    let hosts = ["app.example", "app.example", "APP.example", "app.example:80", "x.example", "app.test"];
    let headers = [
        ("x-a", "1"),
        ("x-a", "ab"),
        ("x-a", ""),
        ("X-A", "v w"),
        ("x-b", "1"),
        ("x-b", "ab"),
        ("x-b", "2"),
        ("x-c", "c"),
    ];
    (
        select(&[80u16, 8080][..]),
        select(&["GET", "GET", "POST", "PUT", "DELETE"][..]),
        select(paths.to_vec()),
        select(queries.to_vec()),
        select(hosts.to_vec()),
        vec(select(headers.to_vec()), 0..=3),
    )
        .prop_map(|(port, method, path, query, host, headers)| Asked {
            port,
            method,
            path,
            query,
            host,
            headers,
        })
        .boxed()
}

impl Asked {
    /// A GET without any headers.
    pub(crate) fn get(path: &'static str) -> Self {
        Self { port: 80, method: "GET", path, query: "", host: "app.example", headers: Vec::new() }
    }

    /// The request as the client sends it.
    pub(crate) fn request(&self) -> Result<Request<Body>> {
        let target = format!("{}{}", self.path, self.query);
        let request = Request::builder().method(self.method).uri(target).header("host", self.host);
        let request =
            self.headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Ok(request.body(empty())?)
    }
}
