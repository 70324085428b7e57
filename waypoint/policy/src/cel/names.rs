//! Names that an expression may use.

/// For messages.
pub(super) const VARIABLES: &str = "args, tool, method, source, request.headers and jwt";
/// For messages.
pub(super) const FUNCTIONS: &str = "size, contains, startsWith, endsWith, matches, int, double, string, has, all, exists, \
                                    exists_one, filter and map";
/// For messages.
pub(super) const SOURCE: &str = "principal, namespace, serviceAccount, trustDomain and ip";

/// What is known of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceField {
    /// `td/ns/x/sa/y`
    Principal,
    Namespace,
    /// `namespace/name`
    ServiceAccount,
    TrustDomain,
    /// The address that the tunnel came from.
    Ip,
}

impl SourceField {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "principal" => Self::Principal,
            "namespace" => Self::Namespace,
            "serviceAccount" => Self::ServiceAccount,
            "trustDomain" => Self::TrustDomain,
            "ip" => Self::Ip,
            _ => return None,
        })
    }
}

/// Functions of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Int,
    Double,
    String,
}

impl Function {
    /// `f(x)`
    pub(super) fn of_one(name: &str) -> Option<Self> {
        Some(match name {
            "size" => Self::Size,
            "int" => Self::Int,
            "double" => Self::Double,
            "string" => Self::String,
            _ => return None,
        })
    }

    /// `x.f(y)`
    pub(super) fn of_text(name: &str) -> Option<Self> {
        Some(match name {
            "contains" => Self::Contains,
            "startsWith" => Self::StartsWith,
            "endsWith" => Self::EndsWith,
            _ => return None,
        })
    }
}

/// What is asked of each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Macro {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

impl Macro {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "all" => Self::All,
            "exists" => Self::Exists,
            "exists_one" => Self::ExistsOne,
            "filter" => Self::Filter,
            "map" => Self::Map,
            _ => return None,
        })
    }
}

/// Words that CEL keeps for itself.
pub(super) fn is_reserved(name: &str) -> bool {
    const WORDS: [&str; 17] = [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    WORDS.contains(&name)
}

/// Names that no variable of a macro may have.
pub(super) fn is_variable(name: &str) -> bool {
    ["args", "tool", "method", "source", "request", "jwt"].contains(&name)
}
