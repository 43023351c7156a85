// Command kubevirt runs parts of KubeVirt's own code, unmodified and without a cluster:
//
//	kubevirt admission [--feature-gates=A,B]   judges VirtualMachines from standard input
//	kubevirt crds                              prints the CRDs that the testbed installs
package main

import (
	"fmt"
	"os"
)

const usage = "usage: kubevirt admission [--feature-gates=A,B] | kubevirt crds"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	command, arguments := os.Args[1], os.Args[2:]
	var err error
	switch {
	case command == "admission":
		err = judge(arguments)
	case command == "crds" && len(arguments) == 0:
		err = printCRDs(os.Stdout)
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "kubevirt %s: %v\n", command, err)
		os.Exit(1)
	}
}
