package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
)

const (
	kubevirtModule = "kubevirt.io/kubevirt"
	// generatedFrom is the annotation that names the module that a CRD comes from, and its version.
	generatedFrom = "machinist.dev/generated-from"
)

// generators are those that virt-operator uses to install KubeVirt, one for each kind that the testbed needs.
var generators = []func() (*extv1.CustomResourceDefinition, error){
	components.NewVirtualMachineCrd,
	components.NewVirtualMachineInstanceCrd,
	components.NewVirtualMachineInstanceMigrationCrd,
	components.NewVirtualMachineInstancetypeCrd,
	components.NewVirtualMachineClusterInstancetypeCrd,
	components.NewVirtualMachinePreferenceCrd,
	components.NewVirtualMachineClusterPreferenceCrd,
}

// list and item have no status, which the published type always prints.
type list struct {
	metav1.TypeMeta `json:",inline"`
	Items           []item `json:"items"`
}

type item struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metadata                           `json:"metadata"`
	Spec            extv1.CustomResourceDefinitionSpec `json:"spec"`
}

type metadata struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// printCRDs prints the CRDs of KubeVirt and CDI that the testbed installs, as one List.
func printCRDs(out io.Writer) error {
	source, err := version(kubevirtModule)
	if err != nil {
		return err
	}
	printed := list{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}}
	for _, generate := range generators {
		crd, err := generate()
		if err != nil {
			return err
		}
		// The others are deprecated, and each costs an API server as much again.
		crd.Spec.Versions = slices.DeleteFunc(crd.Spec.Versions, func(version extv1.CustomResourceDefinitionVersion) bool {
			return !version.Storage
		})
		for i := range crd.Spec.Versions {
			schema := crd.Spec.Versions[i].Schema
			// The generator leaves a schema that it cannot find empty, without an error.
			if schema == nil || schema.OpenAPIV3Schema == nil {
				return fmt.Errorf("%s has no schema for %s", source, crd.Name)
			}
			dropDescriptions(schema.OpenAPIV3Schema)
		}
		printed.Items = append(printed.Items, item{
			TypeMeta: crd.TypeMeta,
			Metadata: metadata{
				Name:        crd.Name,
				Labels:      crd.Labels,
				Annotations: map[string]string{generatedFrom: source},
			},
			Spec: crd.Spec,
		})
	}
	printed.Items = append(printed.Items, dataVolume(), storageProfile())
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	return encoder.Encode(printed)
}

// version returns a module that this program is built from, with its version.
func version(module string) (string, error) {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "", fmt.Errorf("the program has no build information")
	}
	for _, dependency := range build.Deps {
		if dependency.Path != module {
			continue
		}
		if dependency.Replace != nil {
			dependency = dependency.Replace
		}
		return dependency.Path + " " + dependency.Version, nil
	}
	return "", fmt.Errorf("the program is not built from %s", module)
}

// dropDescriptions drops all descriptions from a schema: they are most of its bytes, and no test reads them.
func dropDescriptions(schema *extv1.JSONSchemaProps) {
	schema.Description = ""
	for name, property := range schema.Properties {
		dropDescriptions(&property)
		schema.Properties[name] = property
	}
	if schema.Items != nil && schema.Items.Schema != nil {
		dropDescriptions(schema.Items.Schema)
	}
	if schema.AdditionalProperties != nil && schema.AdditionalProperties.Schema != nil {
		dropDescriptions(schema.AdditionalProperties.Schema)
	}
	for _, alternatives := range [][]extv1.JSONSchemaProps{schema.AllOf, schema.AnyOf, schema.OneOf} {
		for i := range alternatives {
			dropDescriptions(&alternatives[i])
		}
	}
	if schema.Not != nil {
		dropDescriptions(schema.Not)
	}
}

func dataVolume() item {
	return cdi("DataVolume", "datavolumes", extv1.NamespaceScoped, []string{"dv", "dvs"},
		[]extv1.CustomResourceColumnDefinition{
			{Name: "Phase", Type: "string", JSONPath: ".status.phase"},
			{Name: "Progress", Type: "string", JSONPath: ".status.progress"},
			{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"},
		})
}

func storageProfile() item {
	return cdi("StorageProfile", "storageprofiles", extv1.ClusterScoped, nil, nil)
}

// cdi returns the CRD of a CDI kind. CDI generates its CRDs in its main module, which KubeVirt does not require; the API
// module that KubeVirt requires has only the Go types. The schema keeps every field, because CDI's own webhook judges
// these kinds.
func cdi(
	kind, plural string,
	scope extv1.ResourceScope,
	short []string,
	columns []extv1.CustomResourceColumnDefinition,
) item {
	const group = "cdi.kubevirt.io"
	keep := true
	kept := extv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &keep}
	schema := &extv1.JSONSchemaProps{
		Type:       "object",
		Properties: map[string]extv1.JSONSchemaProps{"spec": kept, "status": kept},
	}
	return item{
		TypeMeta: metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		Metadata: metadata{Name: plural + "." + group},
		Spec: extv1.CustomResourceDefinitionSpec{
			Group: group,
			Names: extv1.CustomResourceDefinitionNames{
				Plural:     plural,
				Singular:   strings.ToLower(kind),
				ShortNames: short,
				Kind:       kind,
				Categories: []string{"all"},
			},
			Scope: scope,
			Versions: []extv1.CustomResourceDefinitionVersion{{
				Name:    "v1beta1",
				Served:  true,
				Storage: true,
				Schema:  &extv1.CustomResourceValidation{OpenAPIV3Schema: schema},
				Subresources: &extv1.CustomResourceSubresources{
					Status: &extv1.CustomResourceSubresourceStatus{},
				},
				AdditionalPrinterColumns: columns,
			}},
		},
	}
}
