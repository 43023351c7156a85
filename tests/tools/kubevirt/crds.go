package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"slices"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sigs.k8s.io/yaml"

	"kubevirt.io/containerized-data-importer/pkg/operator/resources"

	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
)

const (
	kubevirtModule = "kubevirt.io/kubevirt"
	cdiModule      = "kubevirt.io/containerized-data-importer"
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
	fromCDI, err := version(cdiModule)
	if err != nil {
		return err
	}
	printed := list{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}}
	add := func(crd *extv1.CustomResourceDefinition, source string) error {
		// The others are deprecated, and each costs an API server as much again.
		crd.Spec.Versions = slices.DeleteFunc(crd.Spec.Versions, func(version extv1.CustomResourceDefinitionVersion) bool {
			return !version.Storage
		})
		for i := range crd.Spec.Versions {
			schema := crd.Spec.Versions[i].Schema
			// A generator leaves a schema that it cannot find empty, without an error.
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
		return nil
	}
	for _, generate := range generators {
		crd, err := generate()
		if err != nil {
			return err
		}
		if err := add(crd, source); err != nil {
			return err
		}
	}
	for _, name := range []string{"datavolume", "storageprofile"} {
		crd, err := cdiCRD(name)
		if err != nil {
			return err
		}
		if err := add(crd, fromCDI); err != nil {
			return err
		}
	}
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

// cdiCRD returns a CRD that CDI's operator installs.
func cdiCRD(name string) (*extv1.CustomResourceDefinition, error) {
	crd := new(extv1.CustomResourceDefinition)
	err := yaml.UnmarshalStrict([]byte(resources.CDICRDs[name]), crd)
	return crd, err
}
