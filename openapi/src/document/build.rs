//! Turns the table of routes into the document.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{
    OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Content, HttpMethod, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required,
};

use super::schemas::components;
use super::table::{Access, Method, Payload, Route, routes};

/// The name of the security scheme.
const BEARER: &str = "bearer";

/// The whole document.
#[must_use]
pub fn document() -> OpenApi {
    let mut paths = PathsBuilder::new();
    for route in routes() {
        let method = match route.method {
            Method::Get => HttpMethod::Get,
            Method::Post => HttpMethod::Post,
            Method::Put => HttpMethod::Put,
            Method::Delete => HttpMethod::Delete,
        };
        paths = paths.path(route.path, PathItem::new(method, operation(route)));
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = components().security_scheme(BEARER, SecurityScheme::Http(bearer));
    let licence = LicenseBuilder::new()
        .name("Apache-2.0")
        .identifier(Some("Apache-2.0"))
        .build();
    let info = InfoBuilder::new()
        .title("Flywheel")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "An OpenAI-compatible chat server whose adapters learn from its users' votes.",
        ))
        .license(Some(licence));
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components.build()))
        .build()
}

/// The document as JSON.
///
/// # Errors
/// Never in practice: the document is made of strings and lists.
pub fn document_json() -> Result<String, serde_json::Error> {
    document().to_pretty_json()
}

fn operation(route: &Route) -> OperationBuilder {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(route.id))
        .summary(Some(route.summary))
        .tag(route.tag)
        .response("200", success(route.gives));
    for status in route.errors {
        operation = operation.response(status.to_string(), failure(*status));
    }
    for name in path_parameters(route.path) {
        operation = operation.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(string())),
        );
    }
    for (name, description) in route.query {
        operation = operation.parameter(
            ParameterBuilder::new()
                .name(*name)
                .parameter_in(ParameterIn::Query)
                .required(Required::False)
                .description(Some(*description))
                .schema(Some(string())),
        );
    }
    if takes_revision(route) {
        operation = operation.parameter(
            ParameterBuilder::new()
                .name("If-Match")
                .parameter_in(ParameterIn::Header)
                .required(Required::False)
                .description(Some("The revision that the change is based on."))
                .schema(Some(string())),
        );
    }
    if route.access != Access::Open {
        operation = operation.security(SecurityRequirement::new(BEARER, Vec::<String>::new()));
    }
    match contents(route.takes) {
        contents if contents.is_empty() => operation,
        contents => {
            let mut body = RequestBodyBuilder::new().required(Some(Required::True));
            for (kind, content) in contents {
                body = body.content(kind, content);
            }
            operation.request_body(Some(body.build()))
        }
    }
}

/// Changes of rollouts and aliases compare revisions.
fn takes_revision(route: &Route) -> bool {
    let compared = ["/admin/v1/rollouts/{id}", "/admin/v1/aliases/{name}"];
    route.method != Method::Get && compared.iter().any(|path| route.path.starts_with(path))
}

fn success(payload: Payload) -> ResponseBuilder {
    let mut response = ResponseBuilder::new().description("Success").header(
        "x-request-id",
        HeaderBuilder::new().schema(Some(string())).build(),
    );
    for (kind, content) in contents(payload) {
        response = response.content(kind, content);
    }
    response
}

fn failure(status: u16) -> ResponseBuilder {
    let description = match status {
        400 => "The request is wrong; `param` names the field",
        401 => "The key is missing or wrong",
        404 => "There is no such thing",
        409 => "It is not possible in the present state, or something changed meanwhile",
        413 => "The body is too large",
        415 => "The body is of another type than the route takes",
        428 => "`If-Match` or `If-None-Match` is needed",
        429 => "Too much at once; `retry-after` says when to come back",
        _ => "The server cannot do it now",
    };
    let mut response = ResponseBuilder::new()
        .description(description)
        .content("application/json", schema_content("ErrorBody"));
    if status == 429 {
        let seconds = HeaderBuilder::new().schema(Some(string())).build();
        response = response.header("retry-after", seconds);
    }
    response
}

fn contents(payload: Payload) -> Vec<(&'static str, Content)> {
    match payload {
        Payload::Json(name) => vec![("application/json", schema_content(name))],
        Payload::JsonOrEvents(json, event) => vec![
            ("application/json", schema_content(json)),
            ("text/event-stream", schema_content(event)),
        ],
        Payload::JsonLines(name) => vec![("application/x-ndjson", schema_content(name))],
        Payload::AnyJson => {
            vec![(
                "application/json",
                Content::new(Some(Schema::Object(ObjectBuilder::new().build()))),
            )]
        }
        Payload::Form(name) => vec![("multipart/form-data", schema_content(name))],
        Payload::Bytes => vec![("application/octet-stream", Content::new(Some(string())))],
        Payload::Text => vec![("text/plain", Content::new(Some(string())))],
        Payload::Empty => Vec::new(),
    }
}

fn schema_content(name: &str) -> Content {
    Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name(name))))
}

fn string() -> Schema {
    Schema::Object(
        ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::String))
            .build(),
    )
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}
