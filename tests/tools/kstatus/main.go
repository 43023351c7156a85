// Command kstatus computes the status of objects with the library that Flux and Helm wait by. It reads a JSON array of objects
// from standard input, and writes an array of objects with `status` and `message` to standard output.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}

func run() error {
	var objects []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		return fmt.Errorf("cannot read the objects: %w", err)
	}
	verdicts := []verdict{}
	for _, object := range objects {
		// Its own decoder keeps integers as integers.
		read := &unstructured.Unstructured{}
		if err := read.UnmarshalJSON(object); err != nil {
			return fmt.Errorf("cannot read an object: %w", err)
		}
		result, err := status.Compute(read)
		if err != nil {
			return fmt.Errorf("cannot compute a status: %w", err)
		}
		verdicts = append(verdicts, verdict{result.Status.String(), result.Message})
	}
	return json.NewEncoder(os.Stdout).Encode(verdicts)
}
