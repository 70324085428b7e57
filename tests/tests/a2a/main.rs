//! A2A through the waypoint, on every binding and in every version: one policy, owners, and what no client gets past.

#![cfg(test)]

mod agent;
mod bindings;
mod bypass;
mod cards;
mod owners;
mod sdk;
mod stage;
