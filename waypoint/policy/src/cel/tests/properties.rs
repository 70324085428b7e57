//! Any text, and any well-formed expression with any arguments.

use agent_protocols::Unread;
use proptest::prelude::*;

use super::{Call, ask, document};
use crate::cel::{Answer, Condition};

/// Pieces that expressions are made of, whole and broken.
fn soup() -> impl Strategy<Value = String> {
    const PIECES: [&str; 64] = [
        "args",
        "args.a",
        "args.list",
        "args.text",
        "tool",
        "method",
        "source.ip",
        "request.headers",
        "jwt",
        ".a",
        ".all(x, ",
        ".exists(x, ",
        ".map(x, ",
        ".filter(y, ",
        "x",
        "y",
        "has(",
        "size(",
        "int(",
        "double(",
        "string(",
        "(",
        ")",
        "[",
        "]",
        "[0]",
        "{",
        "}",
        "==",
        "!=",
        "<=",
        "<",
        ">",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "?",
        ":",
        ",",
        ".",
        "in",
        "1",
        "0",
        "-1",
        "1.5",
        "9223372036854775807",
        "-9223372036854775808",
        "'a'",
        "\"",
        "'",
        "\\",
        "r'",
        "true",
        "null",
        ".matches('a.')",
        ".contains('a')",
        "1e9",
        "é",
        " ",
    ];
    prop::collection::vec(prop::sample::select(&PIECES[..]), 0..24).prop_map(|pieces| pieces.concat())
}

/// Expressions that are well formed, of all types.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "args.a",
        "args.b",
        "args.list",
        "args.text",
        "args.o.p",
        "tool",
        "method",
        "jwt.level",
        "jwt.missing",
        "source.namespace",
        "true",
        "false",
        "null",
        "1",
        "2",
        "-1",
        "1.5",
        "0",
        "'a'",
        "'pay'",
        "[1, 2]",
        "args",
        "jwt.groups",
        "[]",
        "args.missing",
        "'list'",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 40, 3, |inner| {
        let operator = prop::sample::select(vec![
            "==", "!=", "<", "<=", ">", ">=", "&&", "||", "+", "-", "*", "/", "%", "in",
        ]);
        let two =
            (inner.clone(), operator, inner.clone()).prop_map(|(a, how, b)| format!("({a}) {how} ({b})"));
        let three = (inner.clone(), inner.clone(), inner.clone())
            .prop_map(|(a, b, c)| format!("({a}) ? ({b}) : ({c})"));
        let one = (
            prop::sample::select(vec!["!(", "-(", "size(", "int(", "double(", "string(", "("]),
            inner.clone(),
        )
            .prop_map(|(what, a)| format!("{what}{a})"));
        let macros = prop::sample::select(vec!["all", "exists", "exists_one", "filter", "map"]);
        let each = (inner.clone(), macros, inner.clone())
            .prop_map(|(over, each, asked)| format!("({over}).{each}(v, ({asked}) == v || v == 1)"));
        let member = (inner.clone(), inner).prop_map(|(of, at)| format!("({of})[{at}]"));
        prop_oneof![4 => two, 1 => three, 1 => one, 1 => each, 1 => member]
    })
}

/// Those of them that are no faults: types that never fit are refused.
fn well_formed() -> impl Strategy<Value = String> {
    expression().prop_filter("a fault", |text| Condition::compile(text).is_ok())
}

/// Arguments that such expressions ask for.
fn arguments() -> impl Strategy<Value = String> {
    let scalar = prop::sample::select(vec![
        "1", "2", "1.5", "true", "null", "\"a\"", "\"pay\"", "1e400", "[1,2]", "{}",
    ]);
    (scalar.clone(), scalar.clone(), prop::collection::vec(scalar.clone(), 0..4), scalar, any::<bool>())
        .prop_map(|(a, b, list, p, twin)| {
            let twin = if twin { "\"B\":1," } else { "" };
            format!(r#"{{{twin}"a":{a},"b":{b},"list":[{}],"text":"pay","o":{{"p":{p}}}}}"#, list.join(","))
        })
}

proptest! {
    /// Whatever stands between the brackets, it is an expression or a fault; and what is one has an answer.
    #[test]
    fn no_text_breaks_the_reader(text in prop_oneof![soup(), ".{0,60}"], arguments in arguments()) {
        if Condition::compile(&text).is_ok() {
            let arguments = document(&arguments);
            ask(&text, &Call { tool: Some("pay"), arguments: Some(&arguments) });
            ask(&text, &Unread);
        }
    }

    /// An answer that is given early stays, whatever becomes known; and when all is known, none is open.
    #[test]
    fn what_becomes_known_never_changes_an_answer(
        text in well_formed(), arguments in arguments(), tool in prop::sample::select(vec!["pay", "a", "other"]),
    ) {
        let arguments = document(&arguments);
        let unread = ask(&text, &Unread);
        let listed = ask(&text, &Call { tool: Some(tool), arguments: None });
        let whole = ask(&text, &Call { tool: Some(tool), arguments: Some(&arguments) });
        prop_assert_ne!(whole, Answer::Open);
        prop_assert!(listed == Answer::Open || listed == whole, "{} became {:?} from {:?}", text, whole, listed);
        prop_assert!(unread == Answer::Open || unread == listed, "{} became {:?} from {:?}", text, listed, unread);
        let condition = Condition::compile(&text).unwrap();
        if condition.tools().is_some_and(|tools| !tools.iter().any(|name| **name == *tool)) {
            prop_assert_eq!(whole, Answer::Told(false), "{} with another tool than its own", text);
        }
    }
}
