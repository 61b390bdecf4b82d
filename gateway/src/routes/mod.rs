//! The routes and who handles each; one file per resource. That they are those
//! of the OpenAPI document is held by a test.

pub(crate) mod admin;
mod fallback;
mod feedback;
mod fine_tuning;
mod health;
mod lora;
mod models;
mod page;
mod telemetry;

use actix_web::web::{self, ServiceConfig, delete, get, post, put};
use actix_web::{Resource, Route};

use crate::chat;

/// A resource with these routes; any other method is a 405 in our own words.
fn resource(path: &str, routes: Vec<Route>) -> Resource {
    let resource = web::resource(path).default_service(web::to(fallback::method_not_allowed));
    routes.into_iter().fold(resource, Resource::route)
}

/// Names may contain slashes, so that longer paths come before shorter ones.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config
        .service(resource(
            "/v1/chat/completions",
            vec![post().to(chat::create)],
        ))
        .service(resource("/v1/models", vec![get().to(models::list)]))
        .service(resource("/v1/models/{id:.+}", vec![get().to(models::show)]))
        .service(resource("/v1/feedback", vec![post().to(feedback::vote)]))
        .service(resource(
            "/v1/feedback/{id}",
            vec![delete().to(feedback::retract)],
        ))
        .service(resource(
            "/v1/load_lora_adapter",
            vec![post().to(lora::load)],
        ))
        .service(resource(
            "/v1/unload_lora_adapter",
            vec![post().to(lora::unload)],
        ))
        .configure(configure_fine_tuning)
        .configure(configure_admin)
        .service(resource("/metrics", vec![get().to(telemetry::metrics)]))
        .service(resource("/health/live", vec![get().to(health::live)]))
        .service(resource("/health/ready", vec![get().to(health::ready)]))
        .service(resource(
            "/openapi.json",
            vec![get().to(telemetry::document)],
        ))
        .default_service(web::to(fallback::no_route));
}

fn configure_fine_tuning(config: &mut ServiceConfig) {
    use fine_tuning::{files, history, jobs};
    config
        .service(resource(
            "/v1/files",
            vec![get().to(files::list), post().to(files::create)],
        ))
        .service(resource(
            "/v1/files/{id}",
            vec![get().to(files::show), delete().to(files::delete)],
        ))
        .service(resource(
            "/v1/files/{id}/content",
            vec![get().to(files::content)],
        ))
        .service(resource(
            "/v1/fine_tuning/jobs",
            vec![get().to(jobs::list), post().to(jobs::create)],
        ))
        .service(resource(
            "/v1/fine_tuning/jobs/{id}",
            vec![get().to(jobs::show)],
        ))
        .service(resource(
            "/v1/fine_tuning/jobs/{id}/cancel",
            vec![post().to(jobs::cancel)],
        ))
        .service(resource(
            "/v1/fine_tuning/jobs/{id}/pause",
            vec![post().to(jobs::pause)],
        ))
        .service(resource(
            "/v1/fine_tuning/jobs/{id}/resume",
            vec![post().to(jobs::resume)],
        ))
        .service(resource(
            "/v1/fine_tuning/jobs/{id}/events",
            vec![get().to(history::events)],
        ))
        .service(resource(
            "/v1/fine_tuning/jobs/{id}/checkpoints",
            vec![get().to(history::checkpoints)],
        ));
}

fn configure_admin(config: &mut ServiceConfig) {
    use admin::{adapters, aliases, audit, export, kill, rollouts};
    config
        .service(resource(
            "/admin/v1/adapters",
            vec![get().to(adapters::list)],
        ))
        .service(resource(
            "/admin/v1/adapters/load",
            vec![post().to(adapters::load)],
        ))
        .service(resource(
            "/admin/v1/adapters/{digest}",
            vec![delete().to(adapters::unload)],
        ))
        .service(resource("/admin/v1/aliases", vec![get().to(aliases::list)]))
        .service(resource(
            "/admin/v1/aliases/{name:.+}",
            vec![
                get().to(aliases::show),
                put().to(aliases::set),
                delete().to(aliases::remove),
            ],
        ))
        .service(resource(
            "/admin/v1/rollouts",
            vec![get().to(rollouts::list)],
        ))
        .service(resource(
            "/admin/v1/rollouts/{id:.+}/promote",
            vec![post().to(rollouts::promote)],
        ))
        .service(resource(
            "/admin/v1/rollouts/{id:.+}/abort",
            vec![post().to(rollouts::abort)],
        ))
        .service(resource(
            "/admin/v1/rollouts/{id:.+}/rollback",
            vec![post().to(rollouts::rollback)],
        ))
        .service(resource(
            "/admin/v1/rollouts/{id:.+}/pause",
            vec![post().to(rollouts::pause)],
        ))
        .service(resource(
            "/admin/v1/rollouts/{id:.+}/resume",
            vec![post().to(rollouts::resume)],
        ))
        .service(resource(
            "/admin/v1/rollouts/{id:.+}/analysis",
            vec![get().to(rollouts::analysis)],
        ))
        .service(resource(
            "/admin/v1/rollouts/{id:.+}",
            vec![get().to(rollouts::show), put().to(rollouts::set)],
        ))
        .service(resource("/admin/v1/kill", vec![post().to(kill::set)]))
        .service(resource("/admin/v1/audit", vec![get().to(audit::list)]))
        .service(resource(
            "/admin/v1/feedback/export",
            vec![get().to(export::votes)],
        ));
}
