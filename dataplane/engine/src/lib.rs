//! Worker loop, ports, table publisher, punt and inject rings.
