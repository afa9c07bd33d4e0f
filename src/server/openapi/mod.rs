//! `GET /openapi.json`: the API as OpenAPI 3.1, made of what stands at the handlers.
//!
//! Guarantees: the document is that of the running version, and `src/server/openapi.json` is the same, which a test compares;
//! another test asks a server for every route in it and holds the answers against it.

mod problems;
mod schemas;

use std::io::{self, Write};
use std::sync::LazyLock;

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response as Answer};
use flate2::Compression;
use flate2::write::GzEncoder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{OpenApi as Document, RefOr, Response};
use utoipa::{Modify, OpenApi};

pub(super) use self::problems::*;
pub(super) use self::schemas::*;
use super::{batch, changes, entries, gate, health, listing, metrics, relay};
use crate::core::Key;

/// What the document says of the whole.
const ABOUT: &str = "The configuration of a store, held in memory by every server.\n\n\
    Names are camelCase; a member without a value is left out. Values are the store's own JSON texts: numbers keep all \
    their digits. Errors are `application/problem+json` (RFC 9457) and never repeat a value. Every answer has a header \
    `x-request-id`, the request's own if it brought a word of at most 128 characters; every problem repeats it as `requestId`. \
    Answers about the state have a header `sync-config-cursor`, the place that they are of: `/v1/changes?since=` and \
    `/v1/watch?cursor=` go on from there. Answers of 1 KiB and more are compressed for those who accept gzip; an entity \
    tag names the state, whatever the encoding.";

#[derive(OpenApi)]
#[openapi(
    info(title = "sync-config", description = ABOUT, license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")),
    servers((url = "/")),
    paths(
        listing::list,
        entries::read,
        entries::put,
        entries::delete,
        batch::batch,
        changes::changes,
        relay::watch,
        relay::events::publish,
        relay::stats::stats,
        health::status,
        health::alive,
        health::health,
        health::ready,
        metrics::metrics,
        super::index,
        document,
    ),
    components(
        schemas(Problem, Conflict, Acknowledgement, Event, Key, After, Any, Cursor, ETag, ETags, IdempotencyKey),
        responses(
            AlreadyDone, BadRequest, Unauthorized, Forbidden, NotFound, Internal, MethodNotAllowed, RequestTimeout, Gone, PreconditionFailed, TooLarge,
            TooManyRequests, Unavailable, OutcomeUnknown,
        )
    ),
    modifiers(&Common),
    tags(
        (name = "configuration", description = "Entries, one by one and together"),
        (name = "changes", description = "What changes, as it does and afterwards"),
        (name = "operation", description = "How the server is doing"),
    )
)]
struct Api;

/// What all operations have in common.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut Document) {
        document.info.version = env!("CARGO_PKG_VERSION").to_owned();
        let components = document.components.get_or_insert_default();
        let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
            "api-key",
            "A key of `sync-config keys create`, where keys are asked for",
        )));
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("apiKey", header);
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        for response in components.responses.values_mut() {
            name_requests(response);
        }
        for (path, item) in &mut document.paths.paths {
            let open = gate::is_open(path);
            for (_, operation) in operations(item) {
                complete(operation, open);
            }
        }
    }
}

/// Adds what every operation may answer.
fn complete(operation: &mut Operation, open: bool) {
    let guarded = ["Unauthorized", "TooManyRequests"];
    let statuses = [("401", guarded[0]), ("429", guarded[1])];
    let everywhere = [
        ("403", "Forbidden"),
        ("500", "Internal"),
        ("503", "Unavailable"),
    ];
    let added = statuses.iter().filter(|_| !open).chain(&everywhere);
    for (status, name) in added {
        let reference = utoipa::openapi::Ref::from_response_name(*name);
        let responses = &mut operation.responses.responses;
        let entry = responses.entry((*status).to_owned());
        drop(entry.or_insert_with(|| RefOr::Ref(reference)).clone());
    }
    for response in operation.responses.responses.values_mut() {
        name_requests(response);
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            leave_out_null(parameter);
        }
    }
    operation.security = Some(if open {
        vec![SecurityRequirement::default()]
    } else {
        // None is needed where the server asks for none.
        let none: [&str; 0] = [];
        vec![
            SecurityRequirement::default(),
            SecurityRequirement::new("apiKey", none),
            SecurityRequirement::new("bearer", none),
        ]
    });
}

/// What is left out of a URL or a header is not there; nothing is null in them.
fn leave_out_null(parameter: &mut Parameter) {
    let Some(RefOr::T(schema)) = &mut parameter.schema else {
        return;
    };
    match schema {
        Schema::Object(object) => {
            if let SchemaType::Array(types) = &object.schema_type
                && let [only, Type::Null] | [Type::Null, only] = &types[..]
            {
                object.schema_type = SchemaType::Type(only.clone());
            }
        }
        Schema::OneOf(choices) => {
            let is_null = |choice: &RefOr<Schema>| {
                let RefOr::T(Schema::Object(choice)) = choice else {
                    return false;
                };
                matches!(choice.schema_type, SchemaType::Type(Type::Null))
            };
            choices.items.retain(|choice| !is_null(choice));
            if let [only] = &choices.items[..] {
                parameter.schema = Some(only.clone());
            }
        }
        _ => {}
    }
}

fn name_requests(response: &mut RefOr<Response>) {
    if let RefOr::T(response) = response {
        let word = ObjectBuilder::new().schema_type(Type::String).build();
        let header = HeaderBuilder::new()
            .schema(Some(word))
            .description(Some("The request's name"))
            .build();
        response
            .headers
            .insert("x-request-id".to_owned(), header.into());
    }
}

fn operations(
    item: &mut utoipa::openapi::PathItem,
) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Put, &mut item.put),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Delete, &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// The document and the operations in it, made once.
static DOCUMENT: LazyLock<(String, Vec<String>)> = LazyLock::new(|| {
    let mut document = Api::openapi();
    let text = serde_json::to_string_pretty(&document).unwrap_or_default() + "\n";
    let mut endpoints = Vec::new();
    for (path, item) in &mut document.paths.paths {
        for (method, _) in operations(item) {
            let method = match method {
                HttpMethod::Put => "PUT",
                HttpMethod::Post => "POST",
                HttpMethod::Delete => "DELETE",
                _ => "GET",
            };
            endpoints.push(format!("{method} {path}"));
        }
    }
    (text, endpoints)
});

/// Every operation, as method and path.
pub(super) fn endpoints() -> &'static [String] {
    &DOCUMENT.1
}

/// This document
#[utoipa::path(
    get, path = "/openapi.json", tag = "operation", operation_id = "document",
    responses((status = 200, description = "The API as OpenAPI 3.1", body = Object, content_type = "application/json"))
)]
pub(super) async fn document(headers: HeaderMap) -> Answer {
    let media = (CONTENT_TYPE, "application/json");
    match &*COMPRESSED {
        Ok(bytes) if takes_gzip(&headers) => {
            let coding = [media, (CONTENT_ENCODING, "gzip"), (VARY, "accept-encoding")];
            (coding, bytes.as_slice()).into_response()
        }
        _ => ([media], DOCUMENT.0.as_str()).into_response(),
    }
}

/// The document as gzip, made once: whoever reaches the address may ask for it, without a key and as often as he likes.
static COMPRESSED: LazyLock<io::Result<Vec<u8>>> = LazyLock::new(|| {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(DOCUMENT.0.as_bytes())?;
    encoder.finish()
});

/// Whether an answer may be gzip: it is named, and not with the quality 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let codings = values.filter_map(|value| value.to_str().ok());
    codings.flat_map(|text| text.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = (parts.next()).is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let none = |quality: &str| quality.bytes().all(|digit| b"0.".contains(&digit));
        named && !parts.any(|part| part.strip_prefix("q=").is_some_and(none))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_name_it() {
        let takes = |text: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(
                ACCEPT_ENCODING,
                text.parse().unwrap(),
            )]))
        };
        for text in ["gzip", "br, GZIP", "gzip;q=0.5, br", "gzip; q=1"] {
            assert!(takes(text), "{text}");
        }
        for text in ["", "br", "gzip;q=0", "gzip; q=0.000", "x-gzip", "identity"] {
            assert!(!takes(text), "{text}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn the_document_that_is_checked_in_is_that_of_the_code() {
        let kept = include_str!("../openapi.json");
        assert!(
            kept == DOCUMENT.0,
            "src/server/openapi.json is not what the code says; write it anew: \
             cargo serve, and curl http://127.0.0.1:8420/openapi.json > src/server/openapi.json"
        );
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_says_what_it_is_for() {
        let mut document = Api::openapi();
        let mut names = std::collections::BTreeSet::new();
        for (path, item) in &mut document.paths.paths {
            for (_, operation) in operations(item) {
                let name = operation.operation_id.clone().unwrap();
                assert!(names.insert(name), "{path}");
                assert!(
                    operation.summary.is_some() && operation.tags.is_some(),
                    "{path}"
                );
                assert!(operation.responses.responses.contains_key("503"), "{path}");
            }
        }
        assert_eq!(names.len(), endpoints().len());
    }
}
