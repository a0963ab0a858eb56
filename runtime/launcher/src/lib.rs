//! The jail's launcher: policy types and the program that builds the jail.
