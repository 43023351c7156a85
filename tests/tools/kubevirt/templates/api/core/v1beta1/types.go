// Package v1beta1 has what KubeVirt reads of a VirtualMachineTemplate.
package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ConditionReady is the type of the condition that a template can be used.
const ConditionReady = "Ready"

// VirtualMachineTemplate is a VirtualMachine with parameters.
type VirtualMachineTemplate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VirtualMachineTemplateSpec   `json:"spec"`
	Status VirtualMachineTemplateStatus `json:"status,omitempty"`
}

// VirtualMachineTemplateSpec is what its author writes.
type VirtualMachineTemplateSpec struct {
	VirtualMachine *runtime.RawExtension `json:"virtualMachine"`
	Parameters     []Parameter           `json:"parameters,omitempty"`
}

// Parameter is a name with its default.
type Parameter struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
}

// VirtualMachineTemplateStatus is what its controller reports.
type VirtualMachineTemplateStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// DeepCopy returns a copy that shares nothing.
func (t *VirtualMachineTemplate) DeepCopy() *VirtualMachineTemplate {
	copied := *t
	copied.ObjectMeta = *t.ObjectMeta.DeepCopy()
	copied.Spec.VirtualMachine = t.Spec.VirtualMachine.DeepCopy()
	copied.Spec.Parameters = append([]Parameter(nil), t.Spec.Parameters...)
	copied.Status.Conditions = append([]metav1.Condition(nil), t.Status.Conditions...)
	return &copied
}

// DeepCopyObject makes it a runtime.Object.
func (t *VirtualMachineTemplate) DeepCopyObject() runtime.Object {
	return t.DeepCopy()
}
