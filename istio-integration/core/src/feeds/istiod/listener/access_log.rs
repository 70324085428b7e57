//! Access loggers of a chain.

use istio_protos::Any;
use istio_protos::envoy::config::accesslog::v3::access_log::ConfigType;
use istio_protos::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use istio_protos::envoy::config::accesslog::v3::comparison_filter::Op;
use istio_protos::envoy::config::accesslog::v3::{
    AccessLog as Logger, AccessLogFilter, ExtensionFilter, ResponseFlagFilter, StatusCodeFilter,
    extension_filter,
};
use istio_protos::envoy::config::core::v3::SubstitutionFormatString;
use istio_protos::envoy::config::core::v3::data_source::Specifier;
use istio_protos::envoy::config::core::v3::substitution_format_string::Format;
use istio_protos::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use istio_protos::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat as FileFormat;
use istio_protos::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use waypoint_model::{AccessLog, LogFormat};

use super::chain::ChainDraft;
use super::json::json;
use super::translated::{At, Refused};
use super::unpack::unpack;

const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
const OUTPUTS: [&str; 2] = ["/dev/stdout", "/dev/stderr"];

/// Adds the loggers that write to the process' output; others are noted by name.
pub(super) fn apply(loggers: &[Logger], draft: &mut ChainDraft) {
    for logger in loggers {
        match self::logger(logger) {
            Ok((log, note)) => {
                draft.telemetry.access_log.push(log);
                draft.notes.extend(note);
            }
            Err(refused) => draft.notes.push(refused.at(format!("access_log[{:?}]", logger.name))),
        }
    }
}

/// A logger, and what of its filter is left out (then more is logged, never less).
fn logger(logger: &Logger) -> Result<(AccessLog, Option<Refused>), Refused> {
    let ConfigType::TypedConfig(config) =
        logger.config_type.as_ref().ok_or_else(|| Refused::new("no configuration"))?;
    let format = match config.type_name() {
        FILE => file(config)?,
        other => return Err(Refused::new(format!("a logger of type {other} is not built"))),
    };
    let (filter, note) = match logger.filter.as_ref().map(filter).transpose().at("filter") {
        Ok(filter) => (filter, None),
        Err(refused) => (None, Some(refused)),
    };
    Ok((AccessLog { format, filter }, note))
}

fn file(config: &Any) -> Result<LogFormat, Refused> {
    let file: FileAccessLog = unpack(Some(config))?;
    if !OUTPUTS.contains(&file.path.as_str()) {
        return Err(Refused::new(format!("a log in the file {} is not written", file.path)));
    }
    match file.access_log_format {
        None => Ok(LogFormat::Default),
        Some(FileFormat::LogFormat(format)) => substitution(&format),
    }
}

fn substitution(format: &SubstitutionFormatString) -> Result<LogFormat, Refused> {
    match format.format.as_ref() {
        Some(Format::JsonFormat(object)) => Ok(LogFormat::Json(json(object))),
        Some(Format::TextFormatSource(source)) => match source.specifier.as_ref() {
            Some(Specifier::InlineString(text)) => Ok(line(text)),
            _ => Err(Refused::new("a format stands in the configuration itself")),
        },
        None => Ok(LogFormat::Default),
    }
}

/// A line's end is the writer's.
fn line(text: &str) -> LogFormat {
    LogFormat::Text(text.strip_suffix('\n').unwrap_or(text).to_owned())
}

/// A filter as a CEL expression, the one language that the model has for it.
fn filter(filter: &AccessLogFilter) -> Result<String, Refused> {
    match filter.filter_specifier.as_ref() {
        Some(FilterSpecifier::ExtensionFilter(extension)) => expression(extension),
        Some(FilterSpecifier::StatusCodeFilter(comparison)) => status(comparison),
        Some(FilterSpecifier::AndFilter(all)) => {
            let parts: Result<Vec<String>, Refused> = all.filters.iter().map(self::filter).collect();
            Ok(parts?.iter().map(|part| format!("({part})")).collect::<Vec<_>>().join(" && "))
        }
        Some(FilterSpecifier::ResponseFlagFilter(any)) => flags(any),
        None => Err(Refused::new("a filter without a rule")),
    }
}

fn expression(filter: &ExtensionFilter) -> Result<String, Refused> {
    let config = filter.config_type.as_ref().map(|extension_filter::ConfigType::TypedConfig(any)| any);
    unpack::<ExpressionFilter>(config).map(|filter| filter.expression)
}

/// One of these flags, or any where none is named. Flags are letters; nothing else gets into an expression.
fn flags(filter: &ResponseFlagFilter) -> Result<String, Refused> {
    let flag = |flag: &String| match flag.chars().all(|c| c.is_ascii_uppercase()) {
        true => Ok(format!("response_flag('{flag}')")),
        false => Err(Refused::new(format!("{flag:?} is no response flag"))),
    };
    let each: Result<Vec<String>, Refused> = filter.flags.iter().map(flag).collect();
    Ok(match each?.as_slice() {
        [] => "response.flags != 0".to_owned(),
        each => each.join(" || "),
    })
}

fn status(filter: &StatusCodeFilter) -> Result<String, Refused> {
    let comparison = filter.comparison.as_ref().ok_or_else(|| Refused::new("nothing is compared"))?;
    let operator = match Op::try_from(comparison.op) {
        Ok(Op::Eq) => "==",
        Ok(Op::Ge) => ">=",
        Ok(Op::Le) => "<=",
        Ok(Op::Ne) => "!=",
        Err(_) => return Err(Refused::new("an operator that is not known")),
    };
    let value = comparison.value.as_ref().map_or(0, |value| value.default_value);
    Ok(format!("response.code {operator} {value}"))
}
