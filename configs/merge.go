package configs

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// MergeRules say how two configs become one (cloud-init: "Merging
// cloud-config"); none is list()+dict()+str(). In YAML they are such a string,
// or a list of mappings with name and settings.
type MergeRules []MergeRule

// MergeRule is how values of one kind are merged: "list", "dict" or "str".
type MergeRule struct {
	Name     string   `json:"name"`
	Settings []string `json:"settings"`
}

// VendorData says what to do with the config of whoever made the image.
type VendorData struct {
	Enabled *bool `json:"enabled,omitempty"` // nil is true
}

func (VendorData) notes() map[string]note {
	return each(note{warning: true, text: "has no effect: vendor-data holds no scripts"}, "prefix")
}

func (MergeRules) forms() []any { return []any{"", []MergeRule(nil)} }

// UnmarshalJSON reads both forms.
func (m *MergeRules) UnmarshalJSON(b []byte) error {
	*m = nil
	if b[0] != '"' {
		if err := json.Unmarshal(b, (*[]MergeRule)(m)); err != nil {
			return err
		}
		return m.check()
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	for part := range strings.SplitSeq(s, "+") {
		name, rest, ok := strings.Cut(strings.TrimSpace(part), "(")
		if !ok || !strings.HasSuffix(rest, ")") {
			return fmt.Errorf("want rules such as %q, got %q", "list(append)+dict(recurse_list)+str()", s)
		}
		r := MergeRule{Name: strings.TrimSpace(name)}
		for word := range strings.SplitSeq(strings.TrimSuffix(rest, ")"), ",") {
			if word = strings.TrimSpace(word); word != "" {
				r.Settings = append(r.Settings, word)
			}
		}
		*m = append(*m, r)
	}
	return m.check()
}

func (m MergeRules) check() error {
	recurse := []string{"recurse_dict", "recurse_list", "recurse_array", "recurse_str"}
	known := map[string][]string{
		"dict": append([]string{"replace", "no_replace", "allow_delete"}, recurse...),
		"list": append([]string{"replace", "no_replace", "append", "prepend"}, recurse...),
		"str":  append([]string{"append"}, recurse...),
	}
	for _, r := range m {
		words, ok := known[r.Name]
		if !ok {
			return fmt.Errorf("rules for %q: want list, dict or str", r.Name)
		}
		for _, s := range r.Settings {
			if !slices.Contains(words, s) {
				return fmt.Errorf("%s(%s): want one of %s", r.Name, s, strings.Join(words, ", "))
			}
		}
	}
	return nil
}

// Merge adds the values of add to those of base, both as encoding/json decodes
// them, and returns the result; neither is changed. Without rules a key of base
// wins, and mappings are merged key by key.
func Merge(base, add any, rules MergeRules) any {
	if len(rules) == 0 {
		rules = MergeRules{{Name: "list"}, {Name: "dict"}, {Name: "str"}}
	}
	return rules.merge(base, add)
}

// has reports whether the rules for a kind have one of the settings.
func (m MergeRules) has(kind string, settings ...string) bool {
	return slices.ContainsFunc(m, func(r MergeRule) bool {
		return r.Name == kind && slices.ContainsFunc(settings, func(s string) bool { return slices.Contains(r.Settings, s) })
	})
}

func (m MergeRules) knows(kind string) bool {
	return slices.ContainsFunc(m, func(r MergeRule) bool { return r.Name == kind })
}

// merge goes by the kind of the value that is there; a kind without rules stays.
func (m MergeRules) merge(old, add any) any {
	switch old := old.(type) {
	case map[string]any:
		if add, ok := add.(map[string]any); ok && m.knows("dict") {
			return m.dicts(old, add)
		}
	case []any:
		if m.knows("list") {
			return m.lists(old, add)
		}
	case string:
		if add, ok := add.(string); ok && m.knows("str") {
			if m.has("str", "append") {
				return old + add
			}
			return add
		}
	}
	return old
}

func (m MergeRules) dicts(old, add map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range old {
		out[k] = v
	}
	for k, v := range add {
		was, ok := out[k]
		switch {
		case !ok:
			out[k] = v
		case v == nil && m.has("dict", "allow_delete"):
			delete(out, k)
		// Of the two, cloud-init looks for replace first.
		case m.has("dict", "replace"):
			out[k] = v
		case m.recurses("dict", v, true):
			out[k] = m.merge(was, v)
		}
	}
	return out
}

// recurses reports whether rules for a kind look inside a value of the other side.
func (m MergeRules) recurses(kind string, v any, dicts bool) bool {
	switch v.(type) {
	case map[string]any:
		return dicts || m.has(kind, "recurse_dict")
	case []any:
		return m.has(kind, "recurse_list", "recurse_array")
	case string:
		return m.has(kind, "recurse_str")
	}
	return false
}

func (m MergeRules) lists(old []any, v any) any {
	add, ok := v.([]any)
	switch {
	case !ok && m.has("list", "append", "prepend", "no_replace"):
		return old
	case !ok:
		return v
	case m.has("list", "append"):
		return slices.Concat(old, add)
	case m.has("list", "prepend"):
		return slices.Concat(add, old)
	}
	out := slices.Clone(old)
	for i := range min(len(old), len(add)) {
		switch {
		case m.has("list", "no_replace"):
		case m.recurses("list", add[i], false):
			out[i] = m.merge(old[i], add[i])
		default:
			out[i] = add[i]
		}
	}
	return out
}

// File is a file as it was read.
type File struct {
	Name string // as it is to appear in messages
	Data []byte
}

// ParseMerged reads user-data and vendor-data, each strictly, and merges them:
// what user-data says wins, unless vendor-data's merge_how, or else
// user-data's, says otherwise. vendor_data: {enabled: false} in user-data
// leaves vendor-data out. Problems in the result alone have no line.
func ParseMerged(user, vendor File) (*UserData, error) {
	u, err := ParseUserData(user.Name, user.Data)
	if err != nil || len(vendor.Data) == 0 || u.VendorData.Enabled != nil && !*u.VendorData.Enabled {
		return u, err
	}
	v, err := ParseUserData(vendor.Name, vendor.Data)
	if err != nil {
		return nil, err
	}
	a, b := newDocument(user.Name, user.Data), newDocument(vendor.Name, vendor.Data)
	if !a.read() || !b.read() { // both were read above
		return nil, Problems(flat(append(a.problems, b.problems...)))
	}
	rules := firstRules(v.MergeHow, v.MergeType, u.MergeHow, u.MergeType)
	for _, key := range []string{"merge_how", "merge_type"} {
		for _, d := range []*document{a, b} {
			if m, ok := d.value.(map[string]any); ok {
				delete(m, key)
			}
		}
	}
	d := newDocument(user.Name+" merged with "+vendor.Name, nil)
	if a.value == nil {
		a.value = map[string]any{}
	}
	d.value = Merge(a.value, b.value, rules)
	d.place(d.value, d.root())
	merged, err := d.userData()
	if err != nil {
		return nil, err
	}
	merged.Warnings = slices.Concat(u.Warnings, v.Warnings)
	return merged, nil
}

func firstRules(all ...MergeRules) MergeRules {
	for _, r := range all {
		if r != nil {
			return r
		}
	}
	return nil
}

// place makes every value of a document that is not text known to set.
func (d *document) place(v any, a at) {
	d.spots[a.path] = spot{}
	switch v := v.(type) {
	case map[string]any:
		for k, one := range v {
			d.place(one, a.key(k))
		}
	case []any:
		for i, one := range v {
			d.place(one, a.item(i))
		}
	case string:
		d.spots[a.path] = spot{text: v}
	}
}
