//! Tenant programs of Leasehold.
