package main

import (
	"context"
	"encoding/json"
	"fmt"

	k8sv1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corefake "k8s.io/client-go/kubernetes/fake"
	appsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	virtv1 "kubevirt.io/api/core/v1"
	instancetypeapi "kubevirt.io/api/instancetype/v1beta1"
	cdiclient "kubevirt.io/client-go/containerizeddataimporter"
	cdifake "kubevirt.io/client-go/containerizeddataimporter/fake"
	"kubevirt.io/client-go/kubecli"
	"kubevirt.io/client-go/kubevirt/fake"
	instancetypes "kubevirt.io/client-go/kubevirt/typed/instancetype/v1beta1"

	virtconfig "kubevirt.io/kubevirt/pkg/virt-config"
)

const kubevirtNamespace = "kubevirt"

// configuration is that of a cluster with KubeVirt's defaults and these feature gates.
func configuration(gates []string) (*virtconfig.ClusterConfig, error) {
	informer := func(object runtime.Object) cache.SharedIndexInformer {
		return cache.NewSharedIndexInformer(&cache.ListWatch{}, object, 0, cache.Indexers{})
	}
	kubevirts := informer(&virtv1.KubeVirt{})
	kubevirt := &virtv1.KubeVirt{
		ObjectMeta: metav1.ObjectMeta{Name: "kubevirt", Namespace: kubevirtNamespace, ResourceVersion: "1"},
		Spec: virtv1.KubeVirtSpec{Configuration: virtv1.KubeVirtConfiguration{
			DeveloperConfiguration: &virtv1.DeveloperConfiguration{FeatureGates: gates},
		}},
		Status: virtv1.KubeVirtStatus{Phase: virtv1.KubeVirtPhaseDeployed, DefaultArchitecture: "amd64"},
	}
	if err := kubevirts.GetStore().Add(kubevirt); err != nil {
		return nil, err
	}
	crds := informer(&metav1.PartialObjectMetadata{})
	return virtconfig.NewClusterConfigWithCPUArch(crds, kubevirts, kubevirtNamespace, "amd64")
}

// cluster answers what admission asks of one. It has instancetypes, preferences and claims, and neither
// DataVolumes nor revisions; whatever else is asked ends the program, so that no answer is made up.
type cluster struct {
	kubecli.KubevirtClient
	objects *fake.Clientset
	cdi     *cdifake.Clientset
	core    *corefake.Clientset
}

func newCluster() *cluster {
	return &cluster{
		objects: fake.NewSimpleClientset(),
		cdi:     cdifake.NewSimpleClientset(),
		core:    corefake.NewSimpleClientset(),
	}
}

func (c *cluster) CdiClient() cdiclient.Interface {
	return c.cdi
}

func (c *cluster) AppsV1() appsv1.AppsV1Interface {
	return c.core.AppsV1()
}

func (c *cluster) CoreV1() corev1.CoreV1Interface {
	return c.core.CoreV1()
}

func (c *cluster) api() instancetypes.InstancetypeV1beta1Interface {
	return c.objects.InstancetypeV1beta1()
}

func (c *cluster) VirtualMachineInstancetype(namespace string) instancetypes.VirtualMachineInstancetypeInterface {
	return c.api().VirtualMachineInstancetypes(namespace)
}

func (c *cluster) VirtualMachineClusterInstancetype() instancetypes.VirtualMachineClusterInstancetypeInterface {
	return c.api().VirtualMachineClusterInstancetypes()
}

func (c *cluster) VirtualMachinePreference(namespace string) instancetypes.VirtualMachinePreferenceInterface {
	return c.api().VirtualMachinePreferences(namespace)
}

func (c *cluster) VirtualMachineClusterPreference() instancetypes.VirtualMachineClusterPreferenceInterface {
	return c.api().VirtualMachineClusterPreferences()
}

// store keeps an instancetype, a preference or a claim.
func (c *cluster) store(kind string, line []byte) error {
	switch kind {
	case "VirtualMachineInstancetype":
		return create(line, func(object *instancetypeapi.VirtualMachineInstancetype) (any, error) {
			return c.VirtualMachineInstancetype(object.Namespace).Create(context.Background(), object, metav1.CreateOptions{})
		})
	case "VirtualMachineClusterInstancetype":
		return create(line, func(object *instancetypeapi.VirtualMachineClusterInstancetype) (any, error) {
			return c.VirtualMachineClusterInstancetype().Create(context.Background(), object, metav1.CreateOptions{})
		})
	case "VirtualMachinePreference":
		return create(line, func(object *instancetypeapi.VirtualMachinePreference) (any, error) {
			return c.VirtualMachinePreference(object.Namespace).Create(context.Background(), object, metav1.CreateOptions{})
		})
	case "VirtualMachineClusterPreference":
		return create(line, func(object *instancetypeapi.VirtualMachineClusterPreference) (any, error) {
			return c.VirtualMachineClusterPreference().Create(context.Background(), object, metav1.CreateOptions{})
		})
	case "PersistentVolumeClaim":
		return create(line, func(object *k8sv1.PersistentVolumeClaim) (any, error) {
			return c.CoreV1().PersistentVolumeClaims(object.Namespace).Create(context.Background(), object, metav1.CreateOptions{})
		})
	default:
		return fmt.Errorf("%q is no VirtualMachine, instancetype, preference or claim", kind)
	}
}

func create[T any](line []byte, create func(*T) (any, error)) error {
	object := new(T)
	if err := json.Unmarshal(line, object); err != nil {
		return err
	}
	_, err := create(object)
	return err
}
