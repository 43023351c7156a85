module machinist.dev/tests/tools/prometheus-operator

go 1.26.0

// Nothing of it is built: it has the CRDs of the monitors and alerts that the chart can make.
require github.com/prometheus-operator/prometheus-operator v0.84.0
