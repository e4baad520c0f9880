package qemu

import (
	"bufio"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
)

// Execute sends any QMP command; arguments is what marshals to its argument
// object, result what its answer unmarshals into, and both may be nil.
func (v *VM) Execute(ctx context.Context, command string, arguments, result any) error {
	if err := v.monitor.execute(ctx, command, arguments, result); err != nil {
		return fmt.Errorf("machine %q: %w", v.Machine.Name, err)
	}
	return nil
}

// PowerButton presses the power button (ACPI); the guest decides. WaitExit
// tells when it is off.
func (v *VM) PowerButton(ctx context.Context) error {
	return v.Execute(ctx, "system_powerdown", nil, nil)
}

// Reset restarts the machine at once, as its reset button does. Later Waits
// look only at what the new boot prints.
func (v *VM) Reset(ctx context.Context) error {
	v.Console.Forget()
	return v.Execute(ctx, "system_reset", nil, nil)
}

// Pause stops all CPUs; Resume lets them go on.
func (v *VM) Pause(ctx context.Context) error { return v.Execute(ctx, "stop", nil, nil) }

// Resume ends a Pause.
func (v *VM) Resume(ctx context.Context) error { return v.Execute(ctx, "cont", nil, nil) }

// SetLink changes the carrier of NIC i, counted from 0, so that the guest sees
// it. For a cable that is dead without anybody noticing, see lan.Port.SetLink.
func (v *VM) SetLink(ctx context.Context, i int, up bool) error {
	return v.Execute(ctx, "set_link", map[string]any{"name": fmt.Sprintf("nic%d", i), "up": up}, nil)
}

// Screendump writes what the machine's screen shows as a PNG.
func (v *VM) Screendump(ctx context.Context, path string) error {
	// QEMU writes PNG itself only where built with libpng; PPM is always there.
	ppm := filepath.Join(v.dir, "screen.ppm")
	defer os.Remove(ppm)
	if err := v.Execute(ctx, "screendump", map[string]any{"filename": ppm}, nil); err != nil {
		return err
	}
	in, err := os.Open(ppm)
	if err != nil {
		return fmt.Errorf("screendump: %w", err)
	}
	defer in.Close()
	img, err := readPPM(in)
	if err != nil {
		return fmt.Errorf("screendump: %w", err)
	}
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("screendump: %w", err)
	}
	defer out.Close()
	if err := png.Encode(out, img); err != nil {
		return fmt.Errorf("screendump %q: %w", path, err)
	}
	return out.Close()
}

// screenLimit refuses sizes no emulated screen has.
const screenLimit = 1 << 14

// readPPM reads the binary PPM ("P6", 8 bits a channel) QEMU writes.
func readPPM(in io.Reader) (image.Image, error) {
	r := bufio.NewReader(in)
	var w, h, depth int
	if _, err := fmt.Fscanf(r, "P6\n%d %d\n%d\n", &w, &h, &depth); err != nil {
		return nil, fmt.Errorf("PPM header: %w", err)
	}
	if w <= 0 || h <= 0 || w > screenLimit || h > screenLimit || depth != 255 {
		return nil, fmt.Errorf("PPM header: %d x %d with depth %d", w, h, depth)
	}
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	row := make([]byte, 3*w)
	for y := range h {
		if _, err := io.ReadFull(r, row); err != nil {
			return nil, fmt.Errorf("PPM row %d: %w", y, err)
		}
		for x := range w {
			img.SetRGBA(x, y, color.RGBA{row[3*x], row[3*x+1], row[3*x+2], 255})
		}
	}
	return img, nil
}
