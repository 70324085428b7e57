//! Messages of Envoy and Istio that istiod sends to a waypoint: only the fields that we understand.
