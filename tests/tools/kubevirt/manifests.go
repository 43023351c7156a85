package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"

	cdicluster "kubevirt.io/containerized-data-importer/pkg/operator/resources/cluster"
	cdinamespaced "kubevirt.io/containerized-data-importer/pkg/operator/resources/namespaced"

	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/rbac"
)

// printManifests prints what virt-operator and CDI's operator install for the processes: CRDs besides those of
// printCRDs, ServiceAccounts and their rights, and webhook configurations, which name URLs in place of Services.
func printManifests(arguments []string, out io.Writer) error {
	flags := flag.NewFlagSet("kubevirt manifests", flag.ExitOnError)
	virtAPI := flags.String("virt-api", "", "URL of virt-api")
	cdiAPI := flags.String("cdi-apiserver", "", "URL of cdi-apiserver")
	caFile := flags.String("ca-file", "", "who signed their serving certificates")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	ca, err := os.ReadFile(*caFile)
	if err != nil {
		return err
	}
	var objects []any
	for _, add := range []func() ([]any, error){
		otherCRDs,
		rights,
		func() ([]any, error) { return registrations(*virtAPI, *cdiAPI, ca), nil },
	} {
		more, err := add()
		if err != nil {
			return err
		}
		objects = append(objects, more...)
	}
	return json.NewEncoder(out).Encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
}

// otherCRDs are those that the processes watch and no test uses. Their schemas keep every field: each schema costs an API
// server time and memory.
func otherCRDs() ([]any, error) {
	var printed []any
	add := func(crd *extv1.CustomResourceDefinition) {
		keep := true
		crd.Spec.Conversion = nil
		for i := range crd.Spec.Versions {
			crd.Spec.Versions[i].Schema = &extv1.CustomResourceValidation{
				OpenAPIV3Schema: &extv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &keep},
			}
		}
		printed = append(printed, item{
			TypeMeta: crd.TypeMeta, Metadata: metadata{Name: crd.Name, Labels: crd.Labels}, Spec: crd.Spec,
		})
	}
	for _, generate := range []func() (*extv1.CustomResourceDefinition, error){
		components.NewKubeVirtCrd,
		components.NewPresetCrd,
		components.NewReplicaSetCrd,
		components.NewVirtualMachinePoolCrd,
		components.NewVirtualMachineSnapshotCrd,
		components.NewVirtualMachineSnapshotContentCrd,
		components.NewVirtualMachineRestoreCrd,
		components.NewVirtualMachineExportCrd,
		components.NewVirtualMachineBackupCrd,
		components.NewVirtualMachineBackupTrackerCrd,
		components.NewMigrationPolicyCrd,
		components.NewVirtualMachineCloneCrd,
	} {
		crd, err := generate()
		if err != nil {
			return nil, err
		}
		add(crd)
	}
	for _, name := range []string{
		"cdi", "cdiconfig", "datasource", "dataimportcron", "objecttransfer", "volumeimportsource", "volumeuploadsource",
		"volumeclonesource",
	} {
		crd, err := cdiCRD(name)
		if err != nil {
			return nil, err
		}
		add(crd)
	}
	return printed, nil
}

// rights are the ServiceAccounts of the processes and of virt-handler, and what they may do.
func rights() ([]any, error) {
	objects := rbac.GetAllApiServer(kubevirtNamespace)
	objects = append(objects, rbac.GetAllController(kubevirtNamespace, false)...)
	objects = append(objects, rbac.GetAllHandler(kubevirtNamespace)...)
	objects = append(objects, rbac.GetAllCluster()...)
	for _, group := range []string{"apiserver-rbac", "controller-rbac", "aggregate-roles"} {
		more, err := cdicluster.CreateStaticResourceGroup(group, &cdicluster.FactoryArgs{Namespace: cdiNamespace})
		if err != nil {
			return nil, err
		}
		for _, object := range more {
			objects = append(objects, object)
		}
	}
	for _, group := range []string{"apiserver", "controller"} {
		more, err := cdinamespaced.CreateResourceGroup(group, &cdinamespaced.FactoryArgs{Namespace: cdiNamespace})
		if err != nil {
			return nil, err
		}
		for _, object := range more {
			objects = append(objects, object)
		}
	}
	var kept []any
	for _, object := range objects {
		switch object.(type) {
		case *corev1.ServiceAccount, *rbacv1.Role, *rbacv1.RoleBinding, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding:
			kept = append(kept, object)
		}
	}
	return kept, nil
}

func registrations(virtAPI, cdiAPI string, ca []byte) []any {
	point := func(config *admissionv1.WebhookClientConfig, server string) {
		url := server
		if config.Service.Path != nil {
			url += *config.Service.Path
		}
		config.URL, config.Service, config.CABundle = &url, nil, ca
	}
	var printed []any
	add := func(object runtime.Object, server string) {
		switch object := object.(type) {
		case *admissionv1.ValidatingWebhookConfiguration:
			for i := range object.Webhooks {
				point(&object.Webhooks[i].ClientConfig, server)
			}
		case *admissionv1.MutatingWebhookConfiguration:
			for i := range object.Webhooks {
				point(&object.Webhooks[i].ClientConfig, server)
			}
		default:
			return
		}
		printed = append(printed, object)
	}
	add(components.NewVirtAPIMutatingWebhookConfiguration(kubevirtNamespace), virtAPI)
	add(components.NewVirtAPIValidatingWebhookConfiguration(kubevirtNamespace), virtAPI)
	dynamic, err := cdicluster.CreateAllDynamicResources(&cdicluster.FactoryArgs{Namespace: cdiNamespace})
	if err != nil {
		// The only group is there.
		panic(fmt.Sprintf("CDI's registrations: %v", err))
	}
	for _, object := range dynamic {
		add(object, cdiAPI)
	}
	return printed
}
