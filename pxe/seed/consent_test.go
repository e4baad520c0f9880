package seed

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
)

func withDisks(n int) handoff.Facts {
	f := facts(n)
	f.Disks = []handoff.Disk{
		{Name: "sda", Size: 480e9, Serial: "S1", WWN: "naa.5000c500a1", Holds: []string{"a partition table (gpt)", `sda1: ext4 "root"`}},
		{Name: "sdb", Size: 480e9, Serial: "S2"},
		{Name: "vda", Size: 20e9, Path: "/dev/disk/by-path/pci-0000:00:04.0", Holds: []string{"xfs"}},
	}
	return f
}

func wipeOf(t *testing.T, conf handoff.Config) []string {
	t.Helper()
	u, err := configs.ParseUserData("user-data", []byte(conf.Files["user-data"]))
	if err != nil {
		t.Fatal(err)
	}
	return u.Slipway.Install.Wipe
}

func TestConsent(t *testing.T) {
	const install = "  install: {disk: {type: ssd}, wipe: [ZZ]}\n"
	for _, tc := range []struct {
		name, spec string
		wipe       []string
		want       []string
		refused    string // part of the text
	}{
		{"none", install, nil, []string{"ZZ"}, ""},
		{"serial", install, []string{"S1"}, []string{"S1", "ZZ"}, ""},
		{"WWN and twice", install, []string{"0x5000C500A1", "S2", "S2"}, []string{"0x5000C500A1", "S2", "ZZ"}, ""},
		{"path of a disk without a name", install, []string{"/dev/disk/by-path/pci-0000:00:04.0"}, []string{"/dev/disk/by-path/pci-0000:00:04.0", "ZZ"}, ""},
		{"another's", install, []string{"S1", "S3"}, nil, `has no disk "S3": it has S1 (sda), S2 (sdb), /dev/disk/by-path/pci-0000:00:04.0 (vda)`},
		{"all", install, []string{"all"}, nil, `"all" is not a disk`},
		{"a pattern", install, []string{"S*"}, nil, "would name any disk"},
		{"kernel's name", install, []string{"sda"}, nil, `has no disk "sda"`},
		{"no install", "", []string{"S1"}, nil, "installs it on no disk"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openSeed(t, t.TempDir(), site(t, approve("ask")+tc.spec), Options{})
			c := newClient(t, serve(t, s), "", withDisks(1))
			m, err := s.Approve(c.enrol(t), "", tc.wipe...)
			var r *handoff.Refusal
			if tc.refused != "" {
				if !errors.As(err, &r) || r.Code != codeDisk || !strings.Contains(r.Text, tc.refused) {
					t.Errorf("got %v, want %s", err, tc.refused)
				}
				if m, err := s.Machine(c.facts.Boot); err != nil || m.State != Waiting {
					t.Errorf("it is %s, %v", m.State, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			conf, _ := c.config(t)
			if got := wipeOf(t, conf); !slices.Equal(got, tc.want) {
				t.Errorf("wipe %q, want %q", got, tc.want)
			}
			said := 0
			for _, st := range s.Timeline(m.ID) {
				if strings.Contains(st.Text, "the operator lets disk") {
					said++
				}
			}
			if want := len(tc.want) - 1; said != want {
				t.Errorf("%d steps tell of it, want %d", said, want)
			}
		})
	}
}

// TestConsentIsOfOneEnrolment: it outlives the seed, not the enrolment.
func TestConsentIsOfOneEnrolment(t *testing.T) {
	dir, spec := t.TempDir(), approve("ask")+"  install: {disk: {type: ssd}}\n"
	s := openSeed(t, dir, site(t, spec), Options{})
	a := newClient(t, serve(t, s), "", withDisks(1))
	code := a.enrol(t)
	if _, err := s.Approve(code, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Approve(code, "", "S1"); err != nil { // an afterthought, before it has its config
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openSeed(t, dir, site(t, spec), Options{})
	base := serve(t, s)
	a.base = base
	conf, _ := a.config(t)
	if got := wipeOf(t, conf); !slices.Equal(got, []string{"S1"}) {
		t.Errorf("after a restart of the seed: %q", got)
	}
	a.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	b := newClient(t, base, "", withDisks(1))
	if _, err := s.Approve(b.enrol(t), ""); err != nil {
		t.Fatal(err)
	}
	conf, _ = b.config(t)
	if got := wipeOf(t, conf); len(got) != 0 {
		t.Errorf("the next enrolment has %q", got)
	}
}

// TestInstallOfTheRule: what a rule says of the disk is what its nodes get.
func TestInstallOfTheRule(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, "  nodes: [{role: control-plane, count: 1, install: {disk: /dev/vdb}}, {role: worker}]\n  install: {disk: /dev/vda}\n"), Options{})
	base := serve(t, s)
	for n, want := range []configs.Glob{"/dev/vdb", "/dev/vda"} {
		c := newClient(t, base, "", facts(n))
		if _, err := s.Approve(c.enrol(t), ""); err != nil {
			t.Fatal(err)
		}
		conf, _ := c.config(t)
		u, err := configs.ParseUserData("user-data", []byte(conf.Files["user-data"]))
		if err != nil || len(u.Slipway.Install.Disk) != 1 || u.Slipway.Install.Disk[0].Path != want {
			t.Errorf("%s: %+v, %v, want %s", conf.Name, u.Slipway.Install, err, want)
		}
	}
}
