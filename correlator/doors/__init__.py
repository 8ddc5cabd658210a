"""The doors: OTLP over gRPC and HTTP, who may come in, what is answered."""
