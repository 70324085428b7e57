//! Delta ADS (xDS over one gRPC stream): which resources are wanted, held and refused, and the stream that carries them.
//!
//! Knows the envelope (`envoy.service.discovery.v3`) and no resource.
