package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	jsonpatch "github.com/evanphx/json-patch"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"kubevirt.io/client-go/log"

	"kubevirt.io/kubevirt/pkg/virt-api/webhooks"
	"kubevirt.io/kubevirt/pkg/virt-api/webhooks/mutating-webhook/mutators"
	"kubevirt.io/kubevirt/pkg/virt-api/webhooks/validating-webhook/admitters"
	virtconfig "kubevirt.io/kubevirt/pkg/virt-config"
)

// A line may hold a whole VirtualMachine with its user data.
const longestLine = 16 << 20

// judge prints what KubeVirt's own admission says of VirtualMachines, without a cluster.
//
// It reads objects from standard input, one a line as JSON. Instancetypes, preferences and claims are what the cluster
// has; each VirtualMachine goes the way of a CREATE through virt-api: its mutating webhook, then its validating one, both
// KubeVirt's unmodified code. For each one a line is printed, in the same order:
//
//	{"allowed":false,"code":422,"message":"...","causes":[{"reason":"FieldValueInvalid","message":"...","field":"..."}]}
//	{"allowed":true,"warnings":["..."],"object":{...}}
//
// where object is the VirtualMachine with KubeVirt's defaults in it.
func judge(arguments []string) error {
	flags := flag.NewFlagSet("kubevirt admission", flag.ExitOnError)
	gates := flags.String("feature-gates", "", "gates that are on in KubeVirt's configuration, with commas between them")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	// KubeVirt logs to standard output.
	log.InitializeLogging("kubevirt-admission")
	log.Log.SetIOWriter(os.Stderr)
	return admitAll(os.Stdin, os.Stdout, gateNames(*gates))
}

func gateNames(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func admitAll(in io.Reader, out io.Writer, gates []string) error {
	config, err := configuration(gates)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestLine)
	answers := json.NewEncoder(out)
	cluster := newCluster()
	for number := 1; lines.Scan(); number++ {
		line := lines.Bytes()
		var kind metav1.TypeMeta
		if err := json.Unmarshal(line, &kind); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if kind.Kind != "VirtualMachine" {
			if err := cluster.store(kind.Kind, line); err != nil {
				return fmt.Errorf("line %d: %w", number, err)
			}
			continue
		}
		answer, err := admit(line, config, cluster)
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

type cause struct {
	Reason  metav1.CauseType `json:"reason"`
	Message string           `json:"message"`
	Field   string           `json:"field"`
}

type answer struct {
	Allowed  bool            `json:"allowed"`
	Code     int32           `json:"code,omitempty"`
	Message  string          `json:"message,omitempty"`
	Causes   []cause         `json:"causes,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Object   json.RawMessage `json:"object,omitempty"`
}

func admit(vm []byte, config *virtconfig.ClusterConfig, cluster *cluster) (*answer, error) {
	review := func(object []byte) *admissionv1.AdmissionReview {
		return &admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
			Operation: admissionv1.Create,
			Resource:  webhooks.VirtualMachineGroupVersionResource,
			Object:    runtime.RawExtension{Raw: object},
		}}
	}
	mutated := mutators.NewVMsMutator(config, cluster).Mutate(review(vm))
	if !mutated.Allowed {
		return refusal(mutated), nil
	}
	patch, err := jsonpatch.DecodePatch(mutated.Patch)
	if err != nil {
		return nil, err
	}
	object, err := patch.Apply(vm)
	if err != nil {
		return nil, err
	}
	validator := admitters.NewVMsAdmitter(config, cluster, &webhooks.Informers{}, nil)
	validated := validator.Admit(context.Background(), review(object))
	if !validated.Allowed {
		return refusal(validated), nil
	}
	return &answer{Allowed: true, Warnings: validated.Warnings, Object: object}, nil
}

func refusal(response *admissionv1.AdmissionResponse) *answer {
	refused := &answer{Warnings: response.Warnings}
	if response.Result == nil {
		return refused
	}
	refused.Code, refused.Message = response.Result.Code, response.Result.Message
	if response.Result.Details != nil {
		for _, one := range response.Result.Details.Causes {
			refused.Causes = append(refused.Causes, cause{Reason: one.Type, Message: one.Message, Field: one.Field})
		}
	}
	return refused
}
