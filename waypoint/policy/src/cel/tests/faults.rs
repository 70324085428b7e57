//! Expressions that are refused, and what is said of them.

use crate::cel::{Condition, check_fact};

#[test]
fn what_is_not_understood_is_refused_by_name_and_place() {
    let rows = [
        (
            "arg.amount <= 1",
            "at column 1 of the expression, before `arg.amount <= 1`: unknown variable `arg`; there are args, tool, ",
        ),
        (
            "true && args.a.lower() == 'x'",
            "at column 16 of the expression, before `lower() == 'x'`: unknown function `lower`; there are size, ",
        ),
        ("now() > 1", "at column 1 of the expression, before `now() > 1`: unknown function `now`"),
        (
            "source.account == 'x'",
            "before `account == 'x'`: `source` has no field `account`; there are principal, namespace",
        ),
        (
            "source == 'x'",
            "at column 1 of the expression, before `source == 'x'`: `source` is no value of its own",
        ),
        ("request.path == 'x'", "before `path == 'x'`: `request` has no field `path`; there are headers"),
        ("request.headers['X-Team'] == 'x'", "names of headers are in lower case"),
        ("request.headers[tool] == 'x'", "names of headers are in lower case and are written out"),
        ("request.headers == null", "names of headers are in lower case and are written out"),
        ("tool in request.headers", "names of headers are in lower case and are written out"),
        ("args.to.matches(args.pattern)", "it must be written out"),
        ("args.to.matches('(a')", "not a regular expression: unclosed group"),
        ("args.to.matches('\\\\Bx')", "`\\B` is not supported"),
        ("args.to.matches('[a--b]')", "`--` in brackets: write `\\-`"),
        ("args.to.matches('(a{1000}){1000}')", "it takes more than 65536 bytes"),
        ("args.amount <=", "at column 15 of the expression, its end: a value is expected"),
        ("", "at column 1 of the expression, its end: a value is expected"),
        (
            "args.amount <= 100)",
            "at column 19 of the expression, before `)`: an operator or the end is expected",
        ),
        ("(args.amount", "its end: `)` is expected"),
        ("args.amount == 'x", "before `'x`: a text without its end"),
        ("args.a == '\\q'", "before `'\\q'`: not an escape that CEL knows"),
        ("args.a == '\\ud800'", "not an escape that CEL knows"),
        ("args.a = 1", "before `= 1`: an expression is expected"),
        ("args.a # 1", "before `# 1`: an expression is expected"),
        ("args.a == 9223372036854775808", "before `9223372036854775808`: a number outside of its range"),
        ("args.a == 1e999", "a number outside of its range"),
        ("args.a == 1u", "an unsigned number is not supported here; write it without `u`"),
        ("args.a == b'x'", "bytes are not supported here; write a text"),
        ("args.a == {'b': 1}", "a map is not supported here"),
        ("has(args)", "`has` takes a member, as in has(args.amount)"),
        ("size(args, tool) == 1", "`size` takes one value"),
        ("args.a.startsWith() || true", "`startsWith` takes one text"),
        ("args.a.all(x)", "`all` takes a name and what is asked of each"),
        ("args.a.all(x.y, true)", "`all` takes a name and what is asked of each"),
        ("args.a.all(tool, true)", "`tool` is already the name of something else"),
        ("args.a.all(x, args.b.all(x, true))", "`x` is already the name of something else"),
        ("args.a.all(x, true) && x", "unknown variable `x`"),
        ("tool == 5", "before `== 5`: a text and a number are never equal and have no order"),
        ("tool", "at column 1 of the expression, before `tool`: a text is neither true nor false"),
        ("1 + 1", "a number is neither true nor false"),
        ("!tool", "at column 2 of the expression, before `tool`: a text is neither true nor false"),
        (
            "args.a && size(args.b)",
            "at column 11 of the expression, before `size(args.b)`: a number is neither",
        ),
        ("args.true == 1", "the name of a member is expected"),
        ("'é' == args.a && arg", "at column 18 of the expression, before `arg`"),
    ];
    for (text, want) in rows {
        let fault = Condition::compile(text).expect_err(text).to_string();
        assert!(fault.contains(want), "{text}: {fault}");
    }
    assert_eq!(check_fact("http.mcp", "cel: args.amount <= 100"), Ok(()));
    assert_eq!(check_fact("http.mcp", "tool"), Ok(()));
    assert!(check_fact("http.mcp", "cel: x").unwrap_err().starts_with("at column 1 of the expression"));
    assert!(check_fact("http.mcp", "cel").unwrap_err().contains("is not known"));
    assert!(check_fact("http.a2a", "cel: true").unwrap_err().contains("not built"));
}

#[test]
fn long_and_deep_expressions_are_refused() {
    let too_deep = [
        "(".repeat(33) + "true" + &")".repeat(33),
        "!".repeat(40) + "true",
        "-".repeat(40) + "1 == 1",
        "[".repeat(40) + &"]".repeat(40) + " == 1",
        format!("1{} == 1", " + 1".repeat(40)),
        format!("args{}", ".a".repeat(40)),
        format!("args{}", "[0]".repeat(40)),
        "true ? true : ".repeat(40) + "true",
        format!("true{}", " == true".repeat(40)),
    ];
    for text in &too_deep {
        let fault = Condition::compile(text).expect_err(text).to_string();
        assert!(fault.contains("at most 32 levels"), "{text}: {fault}");
    }
    let fault = Condition::compile(&format!("'{}' == tool", "x".repeat(4096))).unwrap_err().to_string();
    assert!(fault.contains("at most 4096 bytes"), "{fault}");
    // Many parts of one level are no depth.
    assert!(Condition::compile(&format!("true{}", " && true".repeat(400))).is_ok());
}
