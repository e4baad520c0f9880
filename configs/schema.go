package configs

import (
	"encoding/json"
	"maps"
	"net/netip"
	"reflect"
	"slices"
)

// worded is a string type with few values, all of them or those besides other forms.
type worded interface{ words() []string }

// Schema returns the JSON Schema (draft 2020-12) of user-data, for editors. It
// comes from the types that the parser reads into; what only the parser checks,
// such as ranges and what excludes what, is not in it.
func Schema() ([]byte, error) {
	s := schema{defs: map[string]any{}}
	root := s.object(reflect.TypeFor[UserData]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "slipway user-data (#cloud-config)"
	root["$defs"] = s.defs
	return json.MarshalIndent(root, "", "  ")
}

// schema collects the definitions of struct types.
type schema struct{ defs map[string]any }

// of is the schema of values of a type: a reference for structs.
func (s *schema) of(t reflect.Type) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var all []any
	for _, f := range forms(t) {
		if f == t || f.Name() == "" || f.PkgPath() == "" {
			all = append(all, s.form(t, f))
			continue
		}
		all = append(all, s.of(f))
	}
	if len(all) == 1 {
		return all[0]
	}
	return map[string]any{"anyOf": all}
}

// form is the schema of one form f of a type t.
func (s *schema) form(t, f reflect.Type) map[string]any {
	switch k := f.Kind(); {
	case f == reflect.TypeFor[netip.Prefix](), isText(f):
		return map[string]any{"type": "string"}
	case k == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case k >= reflect.Int && k <= reflect.Uint64:
		return map[string]any{"type": "integer"}
	case k == reflect.Slice:
		items := s.of(f.Elem())
		if _, ok := reflect.Zero(f.Elem()).Interface().(interface{ nullable() }); ok {
			items = map[string]any{"anyOf": []any{items, map[string]any{"type": "null"}}}
		}
		return map[string]any{"type": "array", "items": items}
	case k == reflect.Map && f.Elem().Kind() == reflect.Interface:
		return map[string]any{"type": "object"}
	case k == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.of(f.Elem())}
	case k == reflect.Struct:
		if _, ok := s.defs[f.Name()]; !ok {
			s.defs[f.Name()] = nil // a type that holds itself ends here
			s.defs[f.Name()] = s.object(f)
		}
		return map[string]any{"$ref": "#/$defs/" + f.Name()}
	}
	out := map[string]any{"type": "string"}
	if w, ok := reflect.Zero(t).Interface().(worded); ok {
		if words := w.words(); !accepts(t, "0") && !accepts(t, "x1") {
			out["enum"] = words
		}
	}
	return out
}

// accepts reports whether a type's own decoder takes a word; none takes all but
// what check names.
func accepts(t reflect.Type, word string) bool {
	p := reflect.New(t)
	if _, ok := p.Interface().(json.Unmarshaler); !ok {
		return false // a plain string type with words: they are all
	}
	b, err := json.Marshal(word)
	return err == nil && json.Unmarshal(b, p.Interface()) == nil
}

// object is a struct's schema. Keys that are read without effect are allowed,
// with what the parser says of them; all others are not.
func (s *schema) object(t reflect.Type) map[string]any {
	props := map[string]any{}
	names, types := fields(t)
	for _, name := range names {
		props[name] = s.of(types[name])
	}
	if n, ok := reflect.Zero(t).Interface().(noted); ok {
		notes := n.notes()
		for _, key := range slices.Sorted(maps.Keys(notes)) {
			if _, has := props[key]; !has && notes[key].warning {
				props[key] = map[string]any{"description": notes[key].text, "deprecated": true}
			}
		}
	}
	return map[string]any{"type": "object", "properties": props, "additionalProperties": false}
}
