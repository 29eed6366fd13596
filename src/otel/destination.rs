//! Where telemetry goes, by the command line and the standard environment variables.

use std::time::Duration;

/// The environment variables that are read, with what they say.
pub const VARIABLES: &[(&str, &str)] = &[
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "the receiver, where --otlp names none"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "the receiver of spans, taken as it is"),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "the receiver of metrics, taken as it is"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf or grpc"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "headers of every request: name=value,name=value"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "milliseconds for a batch, all its attempts together"),
    ("OTEL_SERVICE_NAME", "service.name, else gemba"),
    ("OTEL_RESOURCE_ATTRIBUTES", "attributes of the resource: name=value,name=value"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "spans that may wait"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "milliseconds between metrics"),
    ("OTEL_SDK_DISABLED", "true sends nothing where only the environment names a receiver"),
];

const TIMEOUT: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(10);
const QUEUE: usize = 65_536;

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Protobufs in the body of an HTTP/1.1 request.
    Http,
    /// gRPC over HTTP/2.
    Grpc,
}

/// Where telemetry goes and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// How requests travel.
    pub protocol: Protocol,
    /// The address for spans.
    pub traces: String,
    /// The address for metrics.
    pub metrics: String,
    /// Headers of every request.
    pub headers: Vec<(String, String)>,
    /// How long a batch may take, all its attempts together.
    pub timeout: Duration,
    /// The service's name.
    pub service: String,
    /// More attributes of the resource.
    pub resource: Vec<(String, String)>,
    /// Spans that may wait.
    pub queue: usize,
    /// Between metrics.
    pub interval: Duration,
}

/// Why telemetry cannot go there: a fragment that completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Encrypted connections are not offered.
    #[error("send telemetry to {url}: there is no TLS in this program")]
    Encrypted {
        /// The address.
        url: String,
    },
    /// It is no address.
    #[error("send telemetry to {url}: expected http://HOST:PORT or grpc://HOST:PORT")]
    Address {
        /// What was given.
        url: String,
    },
    /// A protocol that is not offered.
    #[error("read {variable}: expected http/protobuf or grpc, found {found}")]
    Protocol {
        /// Where it stands.
        variable: &'static str,
        /// What stands there.
        found: String,
    },
    /// A list that is none.
    #[error("read {variable}: expected name=value,name=value, found {found}")]
    List {
        /// Where it stands.
        variable: &'static str,
        /// What stands there.
        found: String,
    },
    /// A number that is none.
    #[error("read {variable}: expected a number from 1 to 1000000000, found {found}")]
    Number {
        /// Where it stands.
        variable: &'static str,
        /// What stands there.
        found: String,
    },
}

impl DestinationError {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Encrypted { .. } => "run a collector beside it and let that one encrypt",
            Self::Address { .. } => "collectors listen on port 4318 for HTTP and on 4317 for gRPC",
            Self::Protocol { .. } => "http/json is not offered",
            Self::List { .. } => "commas and percent signs in values are written %2C and %25",
            Self::Number { .. } => "unset it to take the default",
        }
    }
}

/// A variable of the environment; an empty one is none.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Destination {
    /// Where telemetry goes by `url`, the command line's word, and by `environment`; `None` if
    /// neither names a receiver.
    ///
    /// # Errors
    /// [`DestinationError`] if what they say cannot be.
    pub fn find(
        url: Option<&str>,
        environment: Environment<'_>,
    ) -> Result<Option<Self>, DestinationError> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let off = variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let theirs = |name: &str| variable(name).filter(|_| url.is_none());
        let base = match url {
            Some(url) => Some(url.to_owned()),
            None if off => return Ok(None),
            None => variable("OTEL_EXPORTER_OTLP_ENDPOINT"),
        };
        let traces = theirs("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let metrics = theirs("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT");
        let Some(named) = base.as_ref().or(traces.as_ref()).or(metrics.as_ref()) else {
            return Ok(None);
        };
        let protocol = protocol(named, variable("OTEL_EXPORTER_OTLP_PROTOCOL"))?;
        let signal = |own: Option<String>, path: &str| -> Result<String, DestinationError> {
            match (own, &base, protocol) {
                (Some(own), _, _) => address(&own),
                (None, Some(base), Protocol::Grpc) => address(base),
                (None, Some(base), Protocol::Http) => {
                    Ok(format!("{}/v1/{path}", address(base)?.trim_end_matches('/')))
                }
                // The other signal goes where this program's users expect a collector.
                (None, None, Protocol::Grpc) => Ok("http://localhost:4317".to_owned()),
                (None, None, Protocol::Http) => Ok(format!("http://localhost:4318/v1/{path}")),
            }
        };
        let list = |name| variable(name).map_or_else(|| Ok(Vec::new()), |value| list(name, &value));
        let number =
            |name, usual: u64| variable(name).map_or(Ok(usual), |value| number(name, &value));
        let mut resource = list("OTEL_RESOURCE_ATTRIBUTES")?;
        let named = resource.iter().position(|(name, _)| name == "service.name");
        let named = named.map(|place| resource.remove(place).1);
        let service = variable("OTEL_SERVICE_NAME").or(named);
        let timeout = number("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT.as_millis() as u64)?;
        let interval = number("OTEL_METRIC_EXPORT_INTERVAL", INTERVAL.as_millis() as u64)?;
        Ok(Some(Self {
            protocol,
            traces: signal(traces, "traces")?,
            metrics: signal(metrics, "metrics")?,
            headers: list("OTEL_EXPORTER_OTLP_HEADERS")?,
            timeout: Duration::from_millis(timeout),
            service: service.unwrap_or_else(|| "gemba".to_owned()),
            resource,
            queue: number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE as u64)? as usize,
            interval: Duration::from_millis(interval),
        }))
    }
}

/// The protocol that the address, the variable or the usual port names.
fn protocol(url: &str, variable: Option<String>) -> Result<Protocol, DestinationError> {
    if url.starts_with("grpc://") {
        return Ok(Protocol::Grpc);
    }
    match variable.as_deref() {
        Some("grpc") => Ok(Protocol::Grpc),
        Some("http/protobuf") => Ok(Protocol::Http),
        Some(found) => {
            let (variable, found) = ("OTEL_EXPORTER_OTLP_PROTOCOL", found.to_owned());
            Err(DestinationError::Protocol { variable, found })
        }
        None if url.trim_end_matches('/').ends_with(":4317") => Ok(Protocol::Grpc),
        None => Ok(Protocol::Http),
    }
}

/// The address with the scheme that clients of both kinds take.
fn address(url: &str) -> Result<String, DestinationError> {
    if url.starts_with("https://") {
        return Err(DestinationError::Encrypted { url: url.to_owned() });
    }
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("grpc://"));
    let host = rest.and_then(|rest| rest.split('/').next()).filter(|host| !host.is_empty());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
    match (rest, host) {
        (Some(rest), Some(host)) if host.chars().all(plain) => Ok(format!("http://{rest}")),
        _ => Err(DestinationError::Address { url: url.to_owned() }),
    }
}

/// A list as the W3C's baggage has it, without properties.
fn list(variable: &'static str, text: &str) -> Result<Vec<(String, String)>, DestinationError> {
    let wrong = || DestinationError::List { variable, found: text.to_owned() };
    let item = |item: &str| {
        let (name, value) = item.split_once('=').ok_or_else(wrong)?;
        let (name, value) = (decoded(name.trim()), decoded(value.trim()));
        match (name, value) {
            (Some(name), Some(value)) if !name.is_empty() => Ok((name, value)),
            _ => Err(wrong()),
        }
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(item).collect()
}

/// Text whose percent signs stand for bytes; `None` if they do not, or if no text comes out.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let mut digit = || char::from(*rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains(char::is_control)).then_some(text)
}

fn number(variable: &'static str, text: &str) -> Result<u64, DestinationError> {
    let number = text.trim().parse().ok().filter(|number| (1..=1_000_000_000).contains(number));
    number.ok_or_else(|| DestinationError::Number { variable, found: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(
        url: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<Destination>, DestinationError> {
        let value = |name: &str| {
            assert!(VARIABLES.iter().any(|(known, _)| *known == name), "{name} is not listed");
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Destination::find(url, &value)
    }

    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

    #[test]
    fn addresses_are_those_of_the_specification() {
        use Protocol::{Grpc, Http};
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:1/x");
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], Protocol, [&'a str; 2]);
        let cases: [Case<'_>; 8] = [
            (
                Some("http://h:4318"),
                &[],
                Http,
                ["http://h:4318/v1/traces", "http://h:4318/v1/metrics"],
            ),
            (Some("http://h/p/"), &[], Http, ["http://h/p/v1/traces", "http://h/p/v1/metrics"]),
            (Some("http://h:4317"), &[], Grpc, ["http://h:4317"; 2]),
            (Some("grpc://h:9"), &[http], Grpc, ["http://h:9"; 2]),
            (
                Some("http://h:4317"),
                &[http],
                Http,
                ["http://h:4317/v1/traces", "http://h:4317/v1/metrics"],
            ),
            (
                None,
                &[(BASE, "http://b:1"), traces],
                Http,
                ["http://t:1/x", "http://b:1/v1/metrics"],
            ),
            (None, &[traces], Http, ["http://t:1/x", "http://localhost:4318/v1/metrics"]),
            (None, &[(BASE, "http://b:1"), grpc], Grpc, ["http://b:1"; 2]),
        ];
        for (url, variables, protocol, expected) in cases {
            let found = find(url, variables).unwrap().unwrap();
            assert_eq!(found.protocol, protocol, "{url:?} {variables:?}");
            assert_eq!([found.traces, found.metrics], expected, "{url:?} {variables:?}");
        }
        // The command line's word goes before the environment's.
        let found = find(Some("http://h:1"), &[(BASE, "http://b:1"), traces]).unwrap().unwrap();
        assert_eq!(found.traces, "http://h:1/v1/traces");
    }

    #[test]
    fn nothing_is_sent_where_nobody_asks_for_it() {
        assert_eq!(find(None, &[]), Ok(None));
        assert_eq!(find(None, &[(BASE, "")]), Ok(None));
        assert_eq!(find(None, &[(BASE, "http://b"), ("OTEL_SDK_DISABLED", "true")]), Ok(None));
    }

    #[test]
    fn what_is_said_besides_is_read() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%2Cb, x = y"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=s,deployment.environment.name=test"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "7"),
        ];
        let found = find(Some("http://h"), &variables).unwrap().unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(found.headers, [pair("api-key", "a,b"), pair("x", "y")]);
        assert_eq!(found.resource, [pair("deployment.environment.name", "test")]);
        assert_eq!((found.service.as_str(), found.queue), ("s", 7));
        assert_eq!(found.timeout, Duration::from_millis(250));
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (url, variables, expected) in [
            ("https://h:4318", &[][..], "there is no TLS in this program"),
            ("h:4318", &[], "expected http://HOST:PORT or grpc://HOST:PORT"),
            ("http://", &[], "expected http://HOST:PORT"),
            ("http://a b/", &[], "expected http://HOST:PORT"),
            (
                "http://h",
                &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
                "expected http/protobuf or grpc, found http/json",
            ),
            ("http://h", &[("OTEL_EXPORTER_OTLP_HEADERS", "a")], "name=value,name=value, found a"),
            ("http://h", &[("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz")], "found a=%zz"),
            ("http://h", &[("OTEL_EXPORTER_OTLP_HEADERS", "a=%0d%0a")], "found a=%0d%0a"),
            ("http://h", &[("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")], "found soon"),
            ("http://h", &[("OTEL_BSP_MAX_QUEUE_SIZE", "0")], "from 1 to 1000000000, found 0"),
        ] {
            let error = find(Some(url), variables).unwrap_err();
            assert!(error.to_string().contains(expected), "{url}: {error}");
            assert!(!error.hint().is_empty());
        }
    }
}
