package api

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// Object is what has to be known of any object to send it.
type Object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	json []byte
}

func (o Object) String() string {
	return strings.TrimPrefix(path.Join(o.Metadata.Namespace, strings.ToLower(o.Kind), o.Metadata.Name), "/")
}

var separator = regexp.MustCompile(`(?m)^---[ \t\r]*(#.*)?$`)

// Objects splits a stream of YAML documents.
func Objects(manifest []byte) ([]Object, error) {
	var out []Object
	for i, doc := range separator.Split(string(manifest), -1) {
		raw, err := yaml.YAMLToJSONStrict([]byte(doc))
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if string(raw) == "null" {
			continue // empty or only comments
		}
		o := Object{json: raw}
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if o.APIVersion == "" || o.Kind == "" || o.Metadata.Name == "" {
			return nil, fmt.Errorf("document %d: apiVersion, kind and metadata.name must be there", i+1)
		}
		out = append(out, o)
	}
	return out, nil
}
