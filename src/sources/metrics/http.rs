//! HTTP, as far as the metrics need it.

use crate::protocol::{Exchange, Malformed, Next, Protocol};
use crate::server::counters::Counters;
use crate::server::source::SourceCounter;
use crate::sources::metrics::exposition;

const HEADERS: usize = 64;

/// Most bytes of a request with its headers.
const REQUEST: usize = 8 * 1024;

/// The protocol of the metrics' clients: one request, one response, then the end.
#[derive(Debug, Default)]
pub(crate) struct Http {
    /// Counters of the server. They and those below are set before a connection is driven, and become text
    /// when its request is whole.
    pub(crate) counters: Counters,
    /// Counters of the other event sources.
    pub(crate) of_sources: Vec<SourceCounter>,
}

impl Protocol for Http {
    type State = ();

    fn received(&mut self, (): &mut (), exchange: &mut Exchange<'_>) -> Result<Next, Malformed> {
        let metrics = || exposition::write(&self.counters, &self.of_sources);
        let Some(response) = answer(exchange.input(), metrics) else {
            return Ok(Next::Receive);
        };
        Ok(if exchange.answer(&response) { Next::Close } else { Next::Send })
    }
}

/// Returns the response to a request, or `None` if the request is not complete.
fn answer(request: &[u8], metrics: impl FnOnce() -> String) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = parsed.parse(request);
    // HEAD gets no body, whatever the status (RFC 9110, 9.3.2).
    let head_only = parsed.method == Some("HEAD");
    let refuse = |status: &str| Some(response(status, "", &format!("{status}\n"), head_only));
    match status {
        Ok(httparse::Status::Complete(length)) if length <= REQUEST => {}
        Ok(httparse::Status::Partial) if request.len() < REQUEST => return None,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return refuse("431 Request Header Fields Too Large");
        }
        Err(_) => return refuse("400 Bad Request"),
    }
    match (path(parsed.path.unwrap_or_default()), parsed.method) {
        ("/metrics", Some("GET" | "HEAD")) => Some(response("200 OK", "", &metrics(), head_only)),
        ("/metrics", _) => {
            let status = "405 Method Not Allowed";
            Some(response(status, "Allow: GET, HEAD\r\n", &format!("{status}\n"), head_only))
        }
        _ => refuse("404 Not Found"),
    }
}

/// Returns the path of a request's target without its query. The target may be a whole URI (RFC 9112,
/// 3.2.2).
fn path(target: &str) -> &str {
    let absolute = target.strip_prefix("http://").map(|rest| &rest[rest.find('/').unwrap_or(0)..]);
    let path = absolute.unwrap_or(target);
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn response(status: &str, header: &str, body: &str, head_only: bool) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{header}\
         Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    (head + if head_only { "" } else { body }).into()
}
