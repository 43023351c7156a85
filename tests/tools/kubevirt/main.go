// Command kubevirt runs parts of KubeVirt's and CDI's own code, unmodified.
//
// Without a cluster:
//
//	kubevirt admission [--feature-gates=A,B]   judges VirtualMachines from standard input
//	kubevirt crds                              prints the CRDs that every testbed installs
//	kubevirt manifests FLAGS                   prints what the processes want besides
//
// As plain processes beside an API server, the first two with KubeVirt's own flags:
//
//	kubevirt virt-api FLAGS
//	kubevirt virt-controller FLAGS
//	kubevirt cdi-apiserver FLAGS
//	kubevirt cdi-controller FLAGS
package main

import (
	"fmt"
	"os"

	"kubevirt.io/client-go/log"

	"kubevirt.io/kubevirt/pkg/service"
	virtapi "kubevirt.io/kubevirt/pkg/virt-api"
	"kubevirt.io/kubevirt/pkg/virt-controller/watch"
)

const usage = "usage: kubevirt admission|crds|manifests|virt-api|virt-controller|cdi-apiserver|cdi-controller FLAGS"

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
	case command == "manifests":
		err = printManifests(arguments, os.Stdout)
	case command == "cdi-apiserver":
		err = serveCDI(arguments)
	case command == "cdi-controller":
		err = controlCDI(arguments)
	case command == "virt-api":
		// Its flags are read from the program's arguments.
		os.Args = os.Args[1:]
		log.InitializeLogging(command)
		api := virtapi.NewVirtApi()
		service.Setup(api)
		api.Execute()
	case command == "virt-controller":
		os.Args = os.Args[1:]
		watch.Execute()
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "kubevirt %s: %v\n", command, err)
		os.Exit(1)
	}
}
