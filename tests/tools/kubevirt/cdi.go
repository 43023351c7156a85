package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"strconv"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v6/apis/volumesnapshot/v1"
	snapclient "github.com/kubernetes-csi/external-snapshotter/client/v6/clientset/versioned"
	ocpconfigv1 "github.com/openshift/api/config/v1"
	imagev1 "github.com/openshift/api/image/v1"
	routev1 "github.com/openshift/api/route/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	kubescheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/manager/signals"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"
	forklift "kubevirt.io/containerized-data-importer-api/pkg/apis/forklift/v1beta1"

	"kubevirt.io/containerized-data-importer/pkg/apiserver"
	cdiclient "kubevirt.io/containerized-data-importer/pkg/client/clientset/versioned"
	"kubevirt.io/containerized-data-importer/pkg/common"
	"kubevirt.io/containerized-data-importer/pkg/controller"
	"kubevirt.io/containerized-data-importer/pkg/controller/datavolume"
	"kubevirt.io/containerized-data-importer/pkg/controller/populators"
	"kubevirt.io/containerized-data-importer/pkg/keys"
	"kubevirt.io/containerized-data-importer/pkg/util/cert"
	"kubevirt.io/containerized-data-importer/pkg/util/cert/fetcher"
	"kubevirt.io/containerized-data-importer/pkg/util/cert/generator"
	"kubevirt.io/containerized-data-importer/pkg/util/cert/triple"
	"kubevirt.io/containerized-data-importer/pkg/util/cert/watcher"
	cryptowatch "kubevirt.io/containerized-data-importer/pkg/util/tls-crypto-watch"
)

const (
	cdiNamespace = "cdi"
	// No kubelet pulls it.
	image      = "registry.invalid/cdi"
	pullPolicy = "IfNotPresent"
	verbosity  = "1"
)

// cdiFlags are those of both of CDI's programs. Their own take neither an address nor a kubeconfig in every place.
type cdiFlags struct {
	listen, certFile, keyFile string
	config                    *rest.Config
	kube                      *kubernetes.Clientset
	scheme                    *runtime.Scheme
}

func parseCDI(program string, arguments []string) (*cdiFlags, error) {
	parsed := &cdiFlags{scheme: runtime.NewScheme()}
	flags := flag.NewFlagSet(program, flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "file of the kubeconfig")
	flags.StringVar(&parsed.listen, "listen", "127.0.0.1:8443", "address of the admission webhooks")
	flags.StringVar(&parsed.certFile, "tls-cert-file", "", "serving certificate")
	flags.StringVar(&parsed.keyFile, "tls-key-file", "", "its key")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	for _, add := range []func(*runtime.Scheme) error{
		kubescheme.AddToScheme, cdiv1.AddToScheme, extv1.AddToScheme, snapshotv1.AddToScheme, forklift.AddToScheme,
		imagev1.Install, ocpconfigv1.Install, routev1.Install,
	} {
		if err := add(parsed.scheme); err != nil {
			return nil, err
		}
	}
	var err error
	if parsed.config, err = clientcmd.BuildConfigFromFlags("", *kubeconfig); err != nil {
		return nil, err
	}
	parsed.config.QPS, parsed.config.Burst = 100, 200
	parsed.kube, err = kubernetes.NewForConfig(parsed.config)
	logf.SetLogger(klog.Background())
	return parsed, err
}

// serveCDI runs CDI's admission webhooks.
func serveCDI(arguments []string) error {
	flags, err := parseCDI("cdi-apiserver", arguments)
	if err != nil {
		return err
	}
	host, text, err := net.SplitHostPort(flags.listen)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return err
	}
	ctx := signals.SetupSignalHandler()
	cdi, err := cdiclient.NewForConfig(flags.config)
	if err != nil {
		return err
	}
	snapshots, err := snapclient.NewForConfig(flags.config)
	if err != nil {
		return err
	}
	aggregated, err := aggregator.NewForConfig(flags.config)
	if err != nil {
		return err
	}
	reader, err := cachedReader(ctx, flags)
	if err != nil {
		return err
	}
	auth, err := apiserver.NewAuthConfigWatcher(ctx, flags.kube)
	if err != nil {
		return err
	}
	tls, err := cryptowatch.NewCdiConfigTLSWatcher(ctx, cdi)
	if err != nil {
		return err
	}
	authorizer, err := apiserver.NewAuthorizorFromConfig(flags.config, auth)
	if err != nil {
		return err
	}
	certificate, err := watcher.New(flags.certFile, flags.keyFile)
	if err != nil {
		return err
	}
	served, err := apiserver.NewCdiAPIServer(host, uint(port), flags.kube, aggregated, cdi, snapshots, reader,
		authorizer, auth, tls, certificate, nil)
	if err != nil {
		return err
	}
	return served.Start(ctx.Done())
}

// cachedReader is a client with the index that rendering a claim asks.
func cachedReader(ctx context.Context, flags *cdiFlags) (client.Client, error) {
	shared, err := cache.New(flags.config, cache.Options{Scheme: flags.scheme})
	if err != nil {
		return nil, err
	}
	if err := datavolume.CreateAvailablePersistentVolumeIndex(shared); err != nil {
		return nil, err
	}
	go func() {
		if err := shared.Start(ctx); err != nil {
			klog.Fatal(err)
		}
	}()
	if !shared.WaitForCacheSync(ctx) {
		return nil, fmt.Errorf("the cache did not sync")
	}
	return client.New(flags.config, client.Options{Scheme: flags.scheme, Cache: &client.CacheOptions{Reader: shared}})
}

// controlCDI runs the controllers of CDI that disks of VMs need: imports and clones, with and without populators.
func controlCDI(arguments []string) error {
	flags, err := parseCDI("cdi-controller", arguments)
	if err != nil {
		return err
	}
	ctx := signals.SetupSignalHandler()
	own := cache.ByObject{Field: fields.OneTermEqualSelector("metadata.namespace", cdiNamespace)}
	mgr, err := manager.New(flags.config, manager.Options{
		Scheme: flags.scheme,
		// Its Role lets it list these only there.
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			&networkingv1.Ingress{}: own, &batchv1.CronJob{}: own, &batchv1.Job{}: own, &corev1.ConfigMap{}: own,
			&corev1.Secret{}: own,
		}},
		Metrics: server.Options{BindAddress: "0"},
	})
	if err != nil {
		return err
	}
	key, err := keys.GetOrCreatePrivateKey(flags.kube, cdiNamespace, apiserver.APISigningKeySecretName, nil)
	if err != nil {
		return err
	}
	authority, err := triple.NewCA("cdi-uploadserver")
	if err != nil {
		return err
	}
	public := cert.EncodeCertPEM(authority.Cert)
	bundle := &fetcher.MemCertBundleFetcher{Bundle: public}
	issuer := &generator.FetchCertGenerator{
		Fetcher: &fetcher.MemCertFetcher{Cert: public, Key: cert.EncodePrivateKeyPEM(authority.Key)},
	}
	log := logf.Log.WithName("cdi-controller")
	for _, start := range []func() error{
		func() error {
			return errorOf(controller.NewConfigController(mgr, log, "cdi-uploadproxy", common.ConfigName, nil))
		},
		func() error { return errorOf(controller.NewStorageProfileController(mgr, log, nil)) },
		func() error { return datavolume.CreateCommonIndexes(mgr) },
		func() error { return errorOf(datavolume.NewImportController(ctx, mgr, log, nil)) },
		func() error { return errorOf(datavolume.NewUploadController(ctx, mgr, log, nil)) },
		func() error {
			return errorOf(datavolume.NewPvcCloneController(ctx, mgr, log, image, image, pullPolicy, &key.PublicKey, key, nil))
		},
		func() error {
			return errorOf(controller.NewImportController(mgr, log, image, pullPolicy, verbosity, nil))
		},
		func() error {
			return errorOf(controller.NewCloneController(mgr, log, image, pullPolicy, verbosity, issuer, bundle, &key.PublicKey, nil))
		},
		func() error {
			return errorOf(controller.NewUploadController(mgr, log, image, pullPolicy, verbosity, issuer, bundle, nil))
		},
		func() error { return populators.CreateCommonPopulatorIndexes(mgr) },
		func() error { return errorOf(populators.NewImportPopulator(ctx, mgr, log, nil)) },
		func() error { return errorOf(populators.NewUploadPopulator(ctx, mgr, log, nil)) },
		func() error {
			return errorOf(populators.NewClonePopulator(ctx, mgr, log, image, pullPolicy, nil, &key.PublicKey))
		},
	} {
		if err := start(); err != nil {
			return err
		}
	}
	return mgr.Start(ctx)
}

func errorOf[T any](_ T, err error) error {
	return err
}
