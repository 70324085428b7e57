//! The world around the waypoint goes wrong: no descriptors, hardly any CPU, clocks that jump, endpoints that are not well. It says what
//! is wrong by name, loses nothing that it holds, and is well again within seconds.

#![cfg(test)]

mod blame;
mod clock;
mod endpoints;
mod resources;
