// Package virttemplate has the client of VirtualMachineTemplates that KubeVirt's informer wants.
package virttemplate

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Client is one for the kinds of the group.
type Client struct {
	rest rest.Interface
}

// NewForConfig returns a client.
func NewForConfig(config *rest.Config) (*Client, error) {
	config = rest.CopyConfig(config)
	config.GroupVersion = &schema.GroupVersion{Group: "template.kubevirt.io", Version: "v1beta1"}
	config.APIPath = "/apis"
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(config)
	return &Client{client}, err
}

// TemplateV1beta1 is the client itself.
func (c *Client) TemplateV1beta1() *Client {
	return c
}

// RESTClient sends requests.
func (c *Client) RESTClient() rest.Interface {
	return c.rest
}
