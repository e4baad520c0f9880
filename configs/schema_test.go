package configs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// validate is as much of JSON Schema as Schema uses.
func validate(root map[string]any, s map[string]any, v any, path string) error {
	if ref, ok := s["$ref"].(string); ok {
		return validate(root, root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any), v, path)
	}
	if all, ok := s["anyOf"].([]any); ok {
		var errs []string
		for _, one := range all {
			err := validate(root, one.(map[string]any), v, path)
			if err == nil {
				return nil
			}
			errs = append(errs, err.Error())
		}
		return fmt.Errorf("%s: none of: %s", path, strings.Join(errs, "; "))
	}
	if words, ok := s["enum"].([]any); ok && !slices.Contains(words, v) {
		return fmt.Errorf("%s: %v is not one of %v", path, v, words)
	}
	kind := map[bool]string{true: ""}
	switch v := v.(type) {
	case map[string]any:
		kind[false] = "object"
		props, _ := s["properties"].(map[string]any)
		for k, one := range v {
			next, ok := props[k].(map[string]any)
			if !ok {
				switch more := s["additionalProperties"].(type) {
				case bool:
					return fmt.Errorf("%s.%s: unknown", path, k)
				case map[string]any:
					next = more
				}
			}
			if one == nil && !ok {
				continue
			}
			if next != nil {
				if err := validate(root, next, one, path+"."+k); err != nil {
					return err
				}
			}
		}
	case []any:
		kind[false] = "array"
		for i, one := range v {
			if items, ok := s["items"].(map[string]any); ok {
				if err := validate(root, items, one, fmt.Sprintf("%s[%d]", path, i)); err != nil {
					return err
				}
			}
		}
	case string:
		kind[false] = "string"
	case bool:
		kind[false] = "boolean"
	case float64:
		kind[false] = "integer"
	case nil:
		kind[false] = "null"
	}
	if want, ok := s["type"]; ok && want != kind[false] {
		return fmt.Errorf("%s: a %s, want a %s", path, kind[false], want)
	}
	return nil
}

func TestSchema(t *testing.T) {
	raw, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(raw, &root); err != nil {
		t.Fatal(err)
	}
	for _, file := range files(t, "testdata/good/user-data/*.yaml", 15) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		v := tree(t, string(data))
		if v == nil {
			continue
		}
		if err := validate(root, root, v, filepath.Base(file)); err != nil {
			t.Error(err)
		}
	}
	for text, want := range map[string]string{
		"hostnam: a":                       ".hostnam: unknown",
		"write_files: [{pat: /a}]":         ".write_files[0].pat: unknown",
		"slipway: {role: boss}":            ".slipway.role: boss is not one of",
		"disk_setup: {a: {table_type: x}}": ".disk_setup.a.table_type: x is not one of",
		"packages: [vim]":                  ".packages: unknown",
		"hostname: [a]":                    ".hostname: a array, want a string",
		"slipway: {hooks: {ready: [a]}}":   ".slipway.hooks.ready: unknown",
	} {
		if err := validate(root, root, tree(t, text), ""); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}
