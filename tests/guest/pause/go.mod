module machinist.dev/tests/guest/pause

go 1.26.0
