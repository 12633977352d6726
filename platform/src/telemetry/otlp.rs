//! Traces to an OpenTelemetry collector.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

/// A layer that sends spans to `endpoint`, or none. A wrong endpoint is a warning: a service runs
/// without its traces.
pub(super) fn layer<S>(
    endpoint: Option<&str>,
) -> (Option<impl Layer<S> + use<S>>, Option<SdkTracerProvider>)
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let Some(endpoint) = endpoint else { return (None, None) };
    let exporter = match SpanExporter::builder().with_http().with_endpoint(endpoint).build() {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::warn!(%error, "no traces: the endpoint is not usable");
            return (None, None);
        }
    };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name("swift-eats").build())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("swift-eats"));
    (Some(layer), Some(provider))
}
